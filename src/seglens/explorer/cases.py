"""Slices: what a network sees, says and computes there, and what it would say with latents changed."""

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from seglens.artifacts import finite
from seglens.cohorts.slice_set import SliceSet
from seglens.explorer.answers import BINARY, arrays_answer
from seglens.explorer.opened import Opened, UnknownError, grey, heat_map, shown_plane
from seglens.explorer.state import CurrentState
from seglens.lens_names import segmenter_of
from seglens.reports.shown_planes import planes_of
from seglens.segmenters.decision import most_likely
from seglens.segmenters.score_summary import dice_of_counts
from seglens.segmenters.scoring import Scores, count_scores
from seglens.shapes import Masks
from seglens.steering.baselines import component_filter, entropy_filter, logit_bias
from seglens.steering.edits import LatentEdit

router = APIRouter(tags=["cases"])
RESPONSIBLE = 20
MAX_VALUE = 1e6
"""Of a strength, threshold or bias: codes are far below it, and float32 holds it."""


class SliceEntry(BaseModel):
    """One slice of a cohort; ``dice`` is the mean over its foreground classes, None where it was not scored."""

    row: int
    case: str
    position: int
    split: str
    dice: float | None


class CohortEntry(BaseModel):
    """A cohort and its slices."""

    name: str
    sequences: list[str]
    labels: dict[int, str]
    size: tuple[int, int]
    slices: list[SliceEntry]


class Firing(BaseModel):
    """A latent at one place of a slice, against its usual strength where it fires."""

    latent: int
    name: str
    value: float
    usual: float


class WantedEdit(BaseModel):
    """One change of latents; see `seglens.LatentEdit`."""

    model_config = ConfigDict(extra="forbid")

    latents: list[int] = Field(min_length=1, max_length=4096)
    operation: Literal["multiply", "add", "zero", "clamp"] = "multiply"
    value: float = Field(default=0.0, ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)
    where: Literal["everywhere", "active"] = "everywhere"


class WantedSteering(BaseModel):
    """A slice and the edits to run on it, one after the other."""

    model_config = ConfigDict(extra="forbid")

    cohort: str
    row: int
    edits: list[WantedEdit] = Field(max_length=64)


class WantedBaseline(BaseModel):
    """A slice and a rule at the output; see `seglens.steering.baselines`.

    Attributes:
        rule: CCF (each class keeps its largest component), UF (pixels of a normalised entropy above ``value`` become
            background), or a bias of ``value`` on the logits of ``label``.
    """

    model_config = ConfigDict(extra="forbid")

    cohort: str
    row: int
    rule: Literal["largest_component", "entropy", "logit_bias"]
    value: float = Field(default=0.0, ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)
    label: str = ""


@router.get("/cohorts/{cohort}")
def cohort(cohort: str, state: CurrentState, segmenter: str | None = None) -> CohortEntry:
    """A cohort's slices, with the scores of a segmenter where the run has them."""
    slices = state.run.slices(cohort)
    dice = _slice_dice(state, segmenter, cohort) if segmenter else {}
    index = slices.index.select("case", "position", "split").to_dicts()
    return CohortEntry(
        name=cohort,
        sequences=list(slices.sequences),
        labels=dict(slices.labels),
        size=slices.size[1:],
        slices=[SliceEntry(row=row, dice=dice.get(row), **entry) for row, entry in enumerate(index)],
    )


@router.get("/cohorts/{cohort}/slices/{row}", response_class=Response, responses=BINARY)
def one_slice(cohort: str, row: int, state: CurrentState) -> Response:
    """Grey levels of every sequence, mask and brain of a slice, whether it was cut from a volume and has a mask."""
    slices = state.run.slices(cohort, row)
    (_, masks, brains), _ = planes_of(slices, [row])
    arrays = {"images": grey(slices, row), "mask": masks[0], "brain": brains[0].astype(np.uint8)}
    entry = slices.index.row(row, named=True)
    about = {name: entry[name] for name in ("case", "patient", "position", "split")}
    about["volume"] = entry["spacing_row_mm"] is not None  # 2-D files have no place in mm
    return arrays_answer(arrays, {**about, "sequences": slices.sequences, "labelled": slices.labelled})


@router.get("/segmenters/{segmenter}/slices/{cohort}/{row}", response_class=Response, responses=BINARY)
def prediction(segmenter: str, cohort: str, row: int, state: CurrentState) -> Response:
    """Predict a slice, with its Dice and the latents that are strongest there against their usual."""
    opened = state.run.opened(segmenter)
    slices = state.run.shown_to(opened, cohort, row)
    predicted = most_likely(opened.logits(slices, row))
    codes, grid = opened.codes(slices, row)
    mass = np.bincount(codes.latents.numpy(), weights=codes.values.numpy(), minlength=codes.n_latents)
    usual = opened.atlas.table["mass"].to_numpy() / max(int(opened.atlas.context["n_slices"]), 1)
    unusual = mass - usual
    strongest = np.argsort(-unusual, kind="stable")[:RESPONSIBLE]
    about = {
        "classes": _by_class(opened, predicted, _truth(slices, row)),
        "grid": list(grid[1:]),
        "latents": [
            {"latent": int(latent), "name": _name(opened, int(latent)), "mass": mass[latent], "usual": usual[latent]}
            for latent in strongest
            if mass[latent] > 0
        ],
    }
    return arrays_answer({"mask": predicted[0, shown_plane(slices, row)].numpy()}, about)


@router.get("/segmenters/{segmenter}/slices/{cohort}/{row}/heat/{latent}", response_class=Response, responses=BINARY)
def heat(segmenter: str, cohort: str, row: int, latent: int, state: CurrentState) -> Response:
    """One latent's codes on the token grid of a slice."""
    opened = state.run.opened(segmenter)
    opened.has_latent(latent)
    slices = state.run.shown_to(opened, cohort, row)
    share = (shown_plane(slices, row) + 0.5) / slices.size[0]
    arrays = {"map": heat_map(*opened.codes(slices, row), latent, share)}
    return arrays_answer(arrays, {"scale": opened.scale(latent)})


@router.get("/segmenters/{segmenter}/slices/{cohort}/{row}/at/{y}/{x}")
def firing_at(  # noqa: PLR0917 - the parts of its address
    segmenter: str, cohort: str, row: int, y: int, x: int, state: CurrentState
) -> list[Firing]:
    """The latents that fire at a pixel, strongest first."""
    opened = state.run.opened(segmenter)
    slices = state.run.shown_to(opened, cohort, row)
    _, height, width = slices.size
    if not (0 <= y < height and 0 <= x < width):
        return []
    codes, (_, rows, columns) = opened.codes(slices, row)
    token = codes.rows([(y * rows // height) * columns + x * columns // width])
    usual = opened.atlas.table["mean_activation"]
    found = [
        Firing(latent=latent, name=_name(opened, latent), value=value, usual=usual[latent] or 0.0)
        for latent, value in zip(token.latents.tolist(), token.values.tolist(), strict=True)
    ]
    return sorted(found, key=lambda firing: -firing.value)


@router.post("/segmenters/{segmenter}/steer", response_class=Response, responses=BINARY)
def steer(segmenter: str, wanted: WantedSteering, state: CurrentState) -> Response:
    """The mask with latents changed, and per class what that did."""
    opened = state.run.opened(segmenter)
    slices = state.run.shown_to(opened, wanted.cohort, wanted.row)
    edits = [
        LatentEdit(
            opened.hookpoint,
            opened.lens.dictionary_hash,
            tuple(edit.latents),
            edit.operation,
            edit.value,
            where=edit.where,
        )
        for edit in wanted.edits
    ]
    after = most_likely(opened.logits(slices, wanted.row, edits))
    return _changed(opened, slices, wanted.row, after, {"edits": [edit.description() for edit in edits]})


@router.post("/segmenters/{segmenter}/baseline", response_class=Response, responses=BINARY)
def baseline(segmenter: str, wanted: WantedBaseline, state: CurrentState) -> Response:
    """The mask that a rule at the output makes of the untouched logits: what needs no look inside the network."""
    opened = state.run.opened(segmenter)
    slices = state.run.shown_to(opened, wanted.cohort, wanted.row)
    if wanted.rule == "largest_component":
        rule = component_filter("class")
    elif wanted.rule == "entropy":
        rule = entropy_filter(wanted.value)
    else:
        labels = {name: value for value, name in opened.segmenter.labels.items()}
        if wanted.label not in labels:
            raise UnknownError(f"no class {wanted.label!r}; there are {', '.join(labels)}")
        rule = logit_bias([wanted.value if value == labels[wanted.label] else 0.0 for value in sorted(labels.values())])
    return _changed(opened, slices, wanted.row, rule(opened.logits(slices, wanted.row)), {})


def _changed(opened: Opened, slices: SliceSet, row: int, after: Masks, about: dict[str, Any]) -> Response:
    """A changed mask beside the untouched one."""
    truth, before = _truth(slices, row), most_likely(opened.logits(slices, row))
    about = {
        "before": _by_class(opened, before, truth),
        "after": _by_class(opened, after, truth),
        "changed": int((before != after).sum()),
        **about,
    }
    return arrays_answer({"mask": after[0, shown_plane(slices, row)].numpy()}, about)


def _truth(slices: SliceSet, row: int) -> Masks | None:
    return slices.masks([row]) if slices.labelled else None


def _by_class(opened: Opened, predicted: Masks, truth: Masks | None) -> list[dict[str, Any]]:
    """Of every foreground class: pixels said and true, and Dice (None where it is in neither, or no mask is there)."""
    counts = count_scores(predicted, predicted if truth is None else truth, opened.segmenter.labels)[0]
    dice = dice_of_counts(counts).tolist()
    return [
        {
            "label": label,
            "value": value,
            "said": int(counts[value, 1]),
            "true": None if truth is None else int(counts[value, 2]),
            "dice": None if truth is None else finite(dice[value]),
        }
        for value, label in opened.segmenter.labels.items()
        if value != 0
    ]


def _name(opened: Opened, latent: int) -> str:
    return opened.atlas.table["name"][latent] or "never fires"


def _slice_dice(state: CurrentState, segmenter: str, cohort: str) -> dict[int, float]:
    """Mean Dice over the foreground classes of each scored slice, by row (absent in both counts as 1)."""
    state.run.opened(segmenter)
    stage = f"scores/{segmenter_of(segmenter)}@{cohort}"
    if stage not in state.run.run:
        return {}
    scores = Scores(state.run.run.artifact(stage).table("scores"))
    scored = [row for row, split in enumerate(state.run.slices(cohort).index["split"]) if split == "test"]
    return {scored[row]: dice for _, row, dice in scores.slice_dice().iter_rows()}
