"""Latents that two dictionaries share: by weights where they live in one activation space, by function always."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import polars as pl
import torch
from torch import Tensor

from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import Alignment
from seglens.diffing.bounds import BoundedSide, Side, bounded, bounds_table, of_other_slices
from seglens.diffing.methods import alignment_methods
from seglens.diffing.records import PairFigures, PairRecord
from seglens.runtime.progress import Progress
from seglens.shapes import Extent, grid_of
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.variants import REORDERED, RESEEDED, ROTATED

PROBE_SLICES = 200
"""Slices, half of each cohort, on which two segmenters' codes are compared."""


Variant = tuple[SparseAutoencoder, Tensor]
"""A dictionary and which of its latents are alive, bool [m]."""


@dataclass(frozen=True)
class Compared:
    """One of two dictionaries to be compared.

    Attributes:
        name: of its segmenter.
        lens: the segmenter through its plain fit.
        alive: bool [m].
        probe: unseen slices of its cohort.
        variants: the rotated, reordered and reseeded fits, which bound what a shared fraction can mean; empty where the
            two sides do not live in one activation space.
    """

    name: str
    lens: Lens
    alive: Tensor
    probe: SliceSet
    variants: Mapping[str, Variant] = field(default_factory=dict)


def compare(
    source: Compared,
    target: Compared,
    *,
    tau: float,
    seed: int,
    notes: Mapping[str, bool],
    draft: Draft,
    progress: Progress,
) -> None:
    """Align two dictionaries and write what was found; by function only where a side has no variants.

    Floors and ceilings are means over both sides, so that they do not depend on which one is called the source.

    Args:
        source: one side.
        target: the other.
        tau: cosine threshold of S.
        seed: of the bootstrap of stability.
        notes: what the reader must know of the pair.
        draft: of kind ``alignment``: functional.parquet and pair.json; with variants also `Alignment.write`'s files and
            methods.parquet and bounds.parquet.
        progress: of 3 steps.
    """
    from seglens.diffing.functional import common_grid, weight_matched_function

    by_weights = bool(source.variants and target.variants)
    probes = [source.probe] if source.probe.hash == target.probe.hash else [source.probe, target.probe]
    seen = Probed(source, probes), Probed(target, probes)
    grid = common_grid(seen[0].grid, seen[1].grid)
    codes = seen[0].codes(source.lens.dictionary, grid), seen[1].codes(target.lens.dictionary, grid)
    n_slices = [len(slices) for slices in probes]
    elsewhere = of_other_slices(codes[1], prod(grid), n_slices)
    figures, functional = _by_function(codes, elsewhere)
    bounds: dict[str, list[float]] = {}
    progress(1, 3)
    if by_weights:
        again = [
            side_seen.codes(side.variants[RESEEDED][0], grid)
            for side_seen, side in zip(seen, (source, target), strict=True)
        ]
        bounds = _weight_bounds(source, target, tau) | _functional_ceilings(codes, again)
        alignment, methods = _by_weights(source, target, tau, seed)
        means = {name: sum(values) / len(values) if values else None for name, values in bounds.items()}
        figures = replace(figures, function=weight_matched_function(alignment, *codes), **means)
        alignment.with_figures(**vars(figures)).with_notes(notes).write(draft)
        draft.save_table("methods", methods)
        nulls = of_other_slices(codes[0], prod(grid), n_slices), elsewhere
        one, other = (
            BoundedSide(
                Side(side.lens.dictionary, side.alive, own),
                Side(*side.variants[ROTATED], null),
                Side(*side.variants[REORDERED], repeated),
            )
            for side, own, null, repeated in zip((source, target), codes, nulls, again, strict=True)
        )
        rows = alignment_methods().values()
        shares = [bounded(row, one, other, tau if row.needs == "weights" else row.threshold) for row in rows]
        draft.save_table("bounds", bounds_table(shares))
    progress(2, 3)
    draft.save_table("functional", functional)
    pair = PairRecord(
        source=source.name,
        target=target.name,
        comparable_by_weights=by_weights,
        figures=figures,
        bounds_by_side={name: tuple(values) for name, values in bounds.items()},
        n_probe_slices=sum(len(slices) for slices in probes),
        same_shape=seen[0].grid == seen[1].grid and codes[0].n_latents == codes[1].n_latents,
    )
    draft.save_record("pair", pair)
    progress(3, 3)


def origin_of(segmenters: Mapping[str, SegmenterSettings], name: str) -> str:
    """The segmenter that a chain of starts goes back to."""
    above = segmenters[name].init_from
    return origin_of(segmenters, above) if above else name


def same_start(segmenters: Mapping[str, SegmenterSettings], source: str, target: str) -> bool:
    """Whether two segmenters go back to the same weights: one model's, or the same random ones.

    A study draws all random weights with its one seed, so segmenters of one architecture that start from nothing share
    them. Where an opened model started nobody knows: it shares a start with itself and what goes on from it.
    """
    origins = [origin_of(segmenters, name) for name in (source, target)]
    a, b = (segmenters[origin] for origin in origins)
    return origins[0] == origins[1] or (
        (a.model, a.pretrained, a.architecture, a.network) == (b.model, b.pretrained, b.architecture, b.network)
    )


def probe_of(slices: SliceSet) -> SliceSet:
    """At most half of `PROBE_SLICES`, evenly spaced."""
    return slices.select(evenly_spaced(len(slices), PROBE_SLICES // 2))


class Probed:
    """Activations of one side's network at its hookpoint on the probes: one pass for any number of dictionaries."""

    def __init__(self, side: Compared, probes: Sequence[SliceSet]):
        from seglens.activations.extraction import each_grid

        hookpoint = side.lens.hookpoint
        grids = (grid.cpu() for slices in probes for _, grid in each_grid(side.lens.segmenter, slices, hookpoint))
        tokens = torch.cat(list(grids))
        self.grid = grid_of(tokens)
        self._tokens = tokens.flatten(0, 3)

    def codes(self, dictionary: SparseAutoencoder, grid: Extent) -> Codes:
        """Codes of the probe slices, slice after slice, pooled to a common grid."""
        from seglens.diffing.functional import pool_codes

        return pool_codes(dictionary.encode(self._tokens), self.grid, grid)


def _by_function(codes: tuple[Codes, Codes], elsewhere: Codes) -> tuple[PairFigures, pl.DataFrame]:
    """Matching by function and its null: the target's codes of other slices at the same places."""
    from seglens.diffing.functional import functional_alignment

    found, null = functional_alignment(*codes), functional_alignment(codes[0], elsewhere)
    return PairFigures(found.mean_correlation, null.mean_correlation), found.pairs


def _functional_ceilings(codes: tuple[Codes, Codes], again: Sequence[Codes]) -> dict[str, list[float]]:
    """Matches by function between two dictionaries of one model, for each side."""
    from seglens.diffing.functional import functional_alignment

    found = [functional_alignment(plain, other).mean_correlation for plain, other in zip(codes, again, strict=True)]
    return {"functional_ceiling": [value for value in found if value is not None]}


def _weight_bounds(source: Compared, target: Compared, tau: float) -> dict[str, list[float]]:
    """Shared fractions of the null (one side rotated) and of one model with itself, for each side."""
    from seglens.diffing.sharing import align

    def share(one: Variant, other: Variant) -> float:
        return align(one[0], other[0], tau=tau, alive_source=one[1], alive_target=other[1]).shared_share

    plain = [(side.lens.dictionary, side.alive) for side in (source, target)]
    return {
        "floor": [share(plain[0], target.variants[ROTATED]), share(plain[1], source.variants[ROTATED])],
        "ceiling": [share(own, side.variants[REORDERED]) for own, side in zip(plain, (source, target), strict=True)],
        "ceiling_other_seed": [
            share(own, side.variants[RESEEDED]) for own, side in zip(plain, (source, target), strict=True)
        ],
    }


def _by_weights(source: Compared, target: Compared, tau: float, seed: int) -> tuple[Alignment, pl.DataFrame]:
    from seglens.diffing.agreement import alignment_metrics
    from seglens.diffing.sharing import align

    alignment = align(
        source.lens.dictionary,
        target.lens.dictionary,
        tau=tau,
        alive_source=source.alive,
        alive_target=target.alive,
        source_name=source.name,
        target_name=target.name,
    )
    methods = alignment_metrics(
        source.lens.dictionary,
        target.lens.dictionary,
        tau=tau,
        alive_source=source.alive,
        alive_target=target.alive,
        seed=seed,
    )
    return alignment, methods
