"""Bounds of a share: the same method on sides that have nothing in common, and on one model fitted twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import calibrated_share
from seglens.diffing.functional import functional_alignment
from seglens.diffing.methods import AlignmentMethod, PairEvidence
from seglens.diffing.sharing import align


@dataclass(frozen=True)
class Side:
    """A dictionary as an alignment method sees it.

    Attributes:
        dictionary: what a method by weights compares.
        alive: which of its latents fire, bool [m].
        codes: what a method by codes compares: of the probe tokens.
    """

    dictionary: SparseAutoencoder
    alive: Tensor
    codes: Codes


@dataclass(frozen=True)
class BoundedSide:
    """A side, and what its bounds are measured on.

    Attributes:
        plain: the side itself.
        null: has nothing in common with the other side but what chance and a common seed give: fitted with the same
            seed to randomly rotated activations; its codes are those of other slices at the same places.
        again: the same model and data, fitted again: with another token order for methods by weights, with another seed
            for those by codes.
    """

    plain: Side
    null: Side
    again: Side


@dataclass(frozen=True)
class BoundedShare:
    """The shared latents of two sides by one method, between floor and ceiling.

    Attributes:
        method: its name.
        share: accepted pairs over the live latents of the narrower side, 0..1.
        floor: mean of the shares of each side with the other's null.
        ceiling: mean of the shares of each side with itself, fitted again.
    """

    method: str
    share: float
    floor: float
    ceiling: float

    @property
    def calibrated(self) -> float | None:
        """S* of `calibrated_share`: 0 at the floor, 1 at the ceiling; None where they do not part."""
        return calibrated_share(self.share, self.floor, self.ceiling)


def bounded(method: AlignmentMethod, source: BoundedSide, target: BoundedSide, threshold: float) -> BoundedShare:
    """Measure a method's shared latents with its floor and its ceiling.

    Both bounds are means over the two sides, so that they do not depend on which one is called the source.

    Args:
        method: a row of `alignment_methods`.
        source: one side.
        target: the other.
        threshold: least similarity of a shared pair, -1..1.

    Raises:
        ValueError: sides that the method cannot compare: by weights of different width, by codes of different tokens.
    """
    sides = ((source, target), (target, source))
    floors = [shared_share(method, one.plain, other.null, threshold) for one, other in sides]
    ceilings = [shared_share(method, one.plain, one.again, threshold) for one, _ in sides]
    share = shared_share(method, source.plain, target.plain, threshold)
    return BoundedShare(method.name, share, sum(floors) / 2, sum(ceilings) / 2)


def shared_share(method: AlignmentMethod, source: Side, target: Side, threshold: float) -> float:
    """Share of the narrower side's live latents that a method accepts, 0..1."""
    if method.needs == "codes":
        found = functional_alignment(source.codes, target.codes, match=method.match)
        possible = min(found.live_source, found.live_target)
        values = found.pairs["correlation"].to_numpy()
        accepted = method.accept(PairEvidence({"correlation": values}, np.ones(len(values), bool)), threshold)
        return int(accepted.sum()) / possible if possible else 0.0
    return align(
        source.dictionary,
        target.dictionary,
        tau=threshold,
        method=method.name,
        alive_source=source.alive,
        alive_target=target.alive,
    ).shared_share


def bounds_table(shares: Sequence[BoundedShare]) -> pl.DataFrame:
    """One row a method: method, share, floor, ceiling, calibrated (null where the bounds do not part)."""
    return pl.DataFrame(
        [(one.method, one.share, one.floor, one.ceiling, one.calibrated) for one in shares],
        schema={"method": pl.String, "share": pl.Float64, "floor": pl.Float64}
        | {"ceiling": pl.Float64, "calibrated": pl.Float64},
        orient="row",
    )


def of_other_slices(codes: Codes, tokens_a_slice: int, block_sizes: Sequence[int]) -> Codes:
    """Codes of another slice of the same cohort at the same place: only cohort and place are in common.

    Args:
        codes: of whole slices, cohort after cohort.
        tokens_a_slice: of the grid.
        block_sizes: slices of each cohort; each is shifted by half of itself.
    """
    order = torch.arange(codes.n).reshape(-1, tokens_a_slice)
    blocks = [block.roll(max(1, len(block) // 2), dims=0) for block in order.split(list(block_sizes))]
    return codes.rows(torch.cat(blocks).reshape(-1))
