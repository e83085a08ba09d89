"""Two segmenters side by side: the pairs that the run's alignment found."""

import polars as pl
from fastapi import APIRouter
from pydantic import BaseModel

from seglens.diffing.alignment import Alignment
from seglens.diffing.records import PairRecord
from seglens.diffing.universal import specific_latents, universal_latents
from seglens.explorer.opened import OpenedRun, UnknownError
from seglens.explorer.state import CurrentState

router = APIRouter(tags=["compare"])
PARTNER = "partner_"
"""Begin of the names of the columns of `sharing` that hold partners."""


class Pair(BaseModel):
    """Two latents matched by function.

    Attributes:
        source: latent of the first segmenter.
        target: of the second.
        correlation: of their codes on common slices.
        shared: whether the paper's criterion pairs them too; None where it does not apply.
    """

    source: int
    target: int
    correlation: float
    shared: bool | None


class LatentPairs(BaseModel):
    """All pairs of two segmenters, and the latents that have no partner."""

    pairs: list[Pair]
    unmatched_source: list[int]
    unmatched_target: list[int]


@router.get("/compare/{source}/{target}")
def compare(source: str, target: str, state: CurrentState) -> LatentPairs:
    """The functional alignment of two segmenters, in either order."""
    one, other = state.run.opened(source), state.run.opened(target)
    stage, turned = f"alignment/{source}~{target}", f"alignment/{target}~{source}"
    if stage not in state.run.run and turned not in state.run.run:
        raise UnknownError(f"this run has not aligned {source} and {target}; `seglens diff` does")
    artifact = state.run.run.artifact(stage if stage in state.run.run else turned)
    names = ("source_latent", "target_latent") if stage in state.run.run else ("target_latent", "source_latent")
    table = artifact.table("functional")
    found = list(zip(*(table[name].to_list() for name in (*names, "correlation")), strict=True))
    shared: set[tuple[int, int]] | None = None
    if artifact.record("pair", PairRecord).comparable_by_weights:
        by_weights = artifact.table("pairs").filter("shared")
        shared = set(zip(*(by_weights[name].to_list() for name in names), strict=True))
    return LatentPairs(
        pairs=[
            Pair(source=a, target=b, correlation=c, shared=None if shared is None else (a, b) in shared)
            for a, b, c in found
        ],
        unmatched_source=sorted(set(range(one.atlas.n_latents)) - {a for a, _, _ in found}),
        unmatched_target=sorted(set(range(other.atlas.n_latents)) - {b for _, b, _ in found}),
    )


def sharing(run: OpenedRun, segmenter: str) -> pl.DataFrame:
    """Alignments by weight of a run, for each latent of a segmenter.

    Returns:
        One row a latent. ``partner_<other>``: its partner by the paper's criterion, null where it has none; a column
        for every segmenter of the same space. ``kind``: "universal" (shared in every pair of these segmenters),
        "specific" (alive, not universal) or null (dead), where there are three of them or more.
    """
    n = run.opened(segmenter).atlas.n_latents
    artifacts = [run.run.artifact(stage) for stage in run.run.stages("alignment/")]
    alignments = [Alignment.read(own) for own in artifacts if own.record("pair", PairRecord).comparable_by_weights]
    own_pairs = [one for one in alignments if segmenter in (one.source, one.target)]
    space = {name for one in own_pairs for name in (one.source, one.target)}
    alignments = [one for one in alignments if {one.source, one.target} <= space]
    found = {}
    for one in own_pairs:
        own, other = ("source", "target") if segmenter == one.source else ("target", "source")
        partners: list[int | None] = [None] * n
        for latent, partner in one.shared.select(f"{own}_latent", f"{other}_latent").iter_rows():
            partners[latent] = partner
        found[f"{PARTNER}{one.target if own == 'source' else one.source}"] = pl.Series(partners, dtype=pl.Int32)
    if len(found) > 1:
        kinds: list[str | None] = [None] * n
        try:
            universal = universal_latents(alignments, reference=segmenter)
        except ValueError:  # not every pair of them was aligned, so nothing can be called universal
            return pl.DataFrame(found)
        for latent in specific_latents(alignments, segmenter, universal):
            kinds[latent] = "specific"
        for latent in universal[segmenter]:
            kinds[latent] = "universal"
        found["kind"] = pl.Series(kinds, dtype=pl.String)
    return pl.DataFrame(found)
