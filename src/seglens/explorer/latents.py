"""Latents: the table of all, and one page each."""

from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from pydantic import BaseModel

from seglens.diffing.records import PairRecord
from seglens.explorer.answers import BINARY, arrays_answer
from seglens.explorer.comparing import PARTNER, sharing
from seglens.explorer.names import GivenName
from seglens.explorer.opened import Opened, OpenedRun, UnknownError, grey
from seglens.explorer.state import CurrentState
from seglens.explorer.zeroing import compared_rows, measured_effects
from seglens.reports.shown_planes import plane_at, planes_of, strongest_planes

router = APIRouter(prefix="/segmenters/{segmenter}/latents", tags=["latents"])
EXAMPLES = 8
Kind = Literal["top", "middle", "random"]
NEIGHBOURS = 8
HISTOGRAM_BINS = 24


class Neighbour(BaseModel):
    """Another latent of the same dictionary, by the cosine of decoder rows."""

    latent: int
    cosine: float
    name: str


class Partner(BaseModel):
    """The latent of another segmenter that it is matched with by function, in the run's alignment.

    Attributes:
        correlation: of their codes on common slices.
        shared_by_weight: whether the paper's criterion pairs the same two; None where it does not apply.
    """

    segmenter: str
    latent: int
    correlation: float
    shared_by_weight: bool | None


class Strength(BaseModel):
    """Histogram of a latent's mass (sum of codes) over the slices in which it fires.

    Attributes:
        counts: slices a bin.
        edges: of the bins, one more than those.
        fires_in: slices in which it fires.
        of: slices looked at.
    """

    counts: list[int]
    edges: list[float]
    fires_in: int
    of: int


class SurveyProgress(BaseModel):
    """Slices that the survey behind `Strength` and the map by codes has looked at; ``of`` is 0 before it begins."""

    done: int
    of: int


class LatentPage(BaseModel):
    """One latent: what was measured of it, its neighbours and its partners elsewhere."""

    segmenter: str
    latent: int
    hookpoint: str
    facts: dict[str, Any]
    base_rates: dict[str, float]
    given: GivenName | None
    neighbours: list[Neighbour]
    partners: list[Partner]


@router.get("", response_class=Response, responses=BINARY)
def table(segmenter: str, state: CurrentState) -> Response:
    """All latents of a segmenter, a column an array: the page sorts and filters them without asking again."""
    opened = state.run.opened(segmenter)
    shared = sharing(state.run, segmenter)
    atlas = opened.atlas.table.with_columns(*shared.get_columns(), *measured_effects(opened).get_columns())
    arrays, meta = _columns(atlas, [name for name in atlas.columns if not name.endswith("_top")])
    given = {latent: entry.name for latent, entry in state.names.of(opened.dictionary_hash).items()}
    about = {
        "columns": meta,
        "given": given,
        "labels": list(opened.atlas.labels.values()),
        "partners": [name.removeprefix(PARTNER) for name in shared.columns if name.startswith(PARTNER)],
        "compared_on": len(compared_rows(state.run, opened)),
        "measured": sorted(opened.effects),
        "cohort": opened.cohort,
        "hookpoint": opened.hookpoint,
        "dictionary": opened.dictionary_hash,
    }
    return arrays_answer(arrays, about)


@router.get("/survey")
def survey(segmenter: str, state: CurrentState) -> SurveyProgress:
    """How far the survey has come that a request for a strength or for the map by codes waits for."""
    done, of = state.run.survey_progress(state.run.opened(segmenter))
    return SurveyProgress(done=done, of=of)


@router.get("/{latent}")
def page(segmenter: str, latent: int, state: CurrentState) -> LatentPage:
    """Page of one latent."""
    opened = state.run.opened(segmenter)
    opened.has_latent(latent)
    return LatentPage(
        segmenter=segmenter,
        latent=latent,
        hookpoint=opened.hookpoint,
        facts=opened.atlas.of(latent),
        base_rates=dict(opened.atlas.base_rates),
        given=state.names.of(opened.dictionary_hash).get(latent),
        neighbours=_neighbours(opened, latent),
        partners=_partners(state.run, segmenter, latent),
    )


@router.get("/{latent}/examples", response_class=Response, responses=BINARY)
async def examples(segmenter: str, latent: int, state: CurrentState, kind: Kind = "top", sequence: int = 0) -> Response:
    """Slices with the latent's heat map, all on one scale: the strongest, from the middle of its range, or any.

    The strongest are the atlas's exemplars. The others come from a sample of the same slices: ``middle`` are evenly
    spaced over those in which the latent fires, by mass; ``random`` are drawn, whether it fires there or not.
    """
    limiter = state.surveying if kind == "middle" else None
    return await run_sync(_examples, state.run, segmenter, latent, kind, sequence, limiter=limiter)


@router.get("/{latent}/strength")
async def strength(segmenter: str, latent: int, state: CurrentState) -> Strength:
    """How strongly a latent fires over a sample of slices."""
    return await run_sync(_strength, state.run, segmenter, latent, limiter=state.surveying)


@router.put("/{latent}/name")
def give_name(segmenter: str, latent: int, given: GivenName, state: CurrentState) -> GivenName:
    """Give a latent a name; it is kept in the run's folder."""
    opened = state.run.opened(segmenter)
    opened.has_latent(latent)
    kept = state.names.give(opened.dictionary_hash, latent, given)
    assert kept is not None
    return kept


@router.delete("/{latent}/name", status_code=204)
def take_name(segmenter: str, latent: int, state: CurrentState) -> None:
    """Go back to the name by rule."""
    opened = state.run.opened(segmenter)
    opened.has_latent(latent)
    state.names.give(opened.dictionary_hash, latent, None)


def _examples(run: OpenedRun, segmenter: str, latent: int, kind: Kind, sequence: int) -> Response:
    opened = run.opened(segmenter)
    opened.has_latent(latent)
    cohort = opened.cohort
    slices, unseen = run.slices(cohort), run.unseen(cohort)
    if not 0 <= sequence < len(slices.sequences):
        raise UnknownError(f"{cohort} has sequences 0 to {len(slices.sequences) - 1}, not {sequence}")
    maps, numbers = np.zeros((0, 1, 1), dtype=np.float32), torch.zeros(0, dtype=torch.int64)
    if kind == "top":
        strongest, kept = opened.atlas.exemplars_of(latent)
        chosen = [unseen[row] for row in strongest["row"].to_list()[:EXAMPLES]]
        maps, numbers = strongest_planes(kept[: len(chosen)], slices.size[0])
    elif kind == "middle":
        survey = run.survey(opened)
        mass = survey.mass[:, latent]
        by_mass = np.argsort(-mass, kind="stable")[: int((mass > 0).sum())]
        places = np.linspace(0, max(len(by_mass) - 1, 0), EXAMPLES + 2).round().astype(int)[1:-1]
        chosen = [survey.rows[by_mass[place]] for place in np.unique(places) if place < len(by_mass)]
    else:
        chosen = np.random.default_rng(latent).permutation(unseen)[:EXAMPLES].tolist()
    if kind != "top" and chosen:
        maps, numbers = opened.maps(slices, chosen, latent), planes_of(slices, chosen)[1]
    nothing = np.zeros((0, *slices.size[1:]), dtype=np.uint8)
    arrays = {
        "images": np.stack([grey(slices, row, at)[sequence] for row, at in zip(chosen, numbers.tolist(), strict=True)])
        if chosen
        else nothing,
        "masks": plane_at(slices.masks(chosen), numbers).numpy() if chosen else nothing,
        "maps": maps,
    }
    about = {
        "cohort": cohort,
        "slices": [{"row": row, "case": slices.index["case"][row]} for row in chosen],
        "scale": opened.scale(latent),
    }
    return arrays_answer(arrays, about)


def _strength(run: OpenedRun, segmenter: str, latent: int) -> Strength:
    opened = run.opened(segmenter)
    opened.has_latent(latent)
    mass = run.survey(opened).mass[:, latent]
    fired = mass[mass > 0]
    counts, edges = np.histogram(fired, HISTOGRAM_BINS) if len(fired) else (np.zeros(0), np.zeros(1))
    return Strength(counts=counts.astype(int).tolist(), edges=edges.tolist(), fires_in=len(fired), of=len(mass))


def _neighbours(opened: Opened, latent: int) -> list[Neighbour]:
    rows = opened.dictionary.W_dec.detach()
    cosine = rows @ rows[latent] / (rows.norm(dim=1) * rows[latent].norm()).clamp_min(1e-12)
    cosine[latent] = -torch.inf
    nearest = cosine.topk(min(NEIGHBOURS, len(cosine) - 1))
    names = opened.atlas.table["name"]
    return [
        Neighbour(latent=number, cosine=value, name=names[number] or "")
        for value, number in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
    ]


def _partners(run: OpenedRun, segmenter: str, latent: int) -> list[Partner]:
    found = []
    for stage in run.run.stages("alignment/"):
        source, target = stage.removeprefix("alignment/").split("~")
        if segmenter not in (source, target):
            continue
        artifact = run.run.artifact(stage)
        own, other = ("source", "target") if segmenter == source else ("target", "source")
        pairs = artifact.table("functional").filter(pl.col(f"{own}_latent") == latent)
        by_weights = artifact.record("pair", PairRecord).comparable_by_weights
        shared = artifact.table("pairs").filter(pl.col(f"{own}_latent") == latent) if by_weights else None
        for row in pairs.to_dicts():
            partner = row[f"{other}_latent"]
            same = None if shared is None else shared.filter(pl.col(f"{other}_latent") == partner)["shared"].any()
            found.append(
                Partner(
                    segmenter=target if segmenter == source else source,
                    latent=partner,
                    correlation=row["correlation"],
                    shared_by_weight=same,
                )
            )
    return found


def _columns(table: pl.DataFrame, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Turn columns of a table into arrays: numbers as float32 (NaN where there is none), words as numbers of a list.

    Returns:
        The arrays, and for each column of words ``{"words": [...]}``; code 0 is "no word".
    """
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {}
    for name in names:
        column = table[name]
        if column.dtype == pl.String:
            words = sorted(column.drop_nulls().unique().to_list())
            codes = {word: number for number, word in enumerate(words, start=1)}
            arrays[name] = np.array([codes.get(word, 0) for word in column.to_list()], dtype=np.uint32)
            meta[name] = {"words": words}
        else:
            arrays[name] = column.cast(pl.Float32).fill_null(float("nan")).to_numpy().astype(np.float32)
            meta[name] = {}
    return arrays, meta
