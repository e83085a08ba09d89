"""Two segmenters side by side: the pairs that the run's alignment found."""

from fastapi import APIRouter
from pydantic import BaseModel

from seglens.explorer.opened import UnknownError
from seglens.explorer.state import Held

router = APIRouter(tags=["compare"])


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


class Pairs(BaseModel):
    """All pairs of two segmenters, and the latents that have no partner."""

    pairs: list[Pair]
    unmatched_source: list[int]
    unmatched_target: list[int]


@router.get("/compare/{source}/{target}")
def compare(source: str, target: str, held: Held) -> Pairs:
    """The functional alignment of two segmenters, in either order."""
    one, other = held.run.opened(source), held.run.opened(target)
    stage, turned = f"alignment/{source}~{target}", f"alignment/{target}~{source}"
    if stage not in held.run.run and turned not in held.run.run:
        raise UnknownError(f"this run has not aligned {source} and {target}; `seglens diff` does")
    artifact = held.run.run.artifact(stage if stage in held.run.run else turned)
    names = ("source_latent", "target_latent") if stage in held.run.run else ("target_latent", "source_latent")
    table = artifact.table("functional")
    found = list(zip(*(table[name].to_list() for name in (*names, "correlation")), strict=True))
    shared: set[tuple[int, int]] | None = None
    if artifact.document("pair")["comparable_by_weights"]:
        by_weights = artifact.table("pairs").filter("shared")
        shared = set(zip(*(by_weights[name].to_list() for name in names), strict=True))
    return Pairs(
        pairs=[
            Pair(source=a, target=b, correlation=c, shared=None if shared is None else (a, b) in shared)
            for a, b, c in found
        ],
        unmatched_source=sorted(set(range(one.atlas.n_latents)) - {a for a, _, _ in found}),
        unmatched_target=sorted(set(range(other.atlas.n_latents)) - {b for _, b, _ in found}),
    )
