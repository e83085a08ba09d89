"""What two dictionaries share: by weights where they live in one activation space, by function always."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import Alignment
from seglens.progress import Progress
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.settings import SegmenterSettings

PROBE_SLICES = 200
"""Slices, half of each cohort, on which two segmenters' codes are compared."""


@dataclass(frozen=True)
class Side:
    """One of two dictionaries to be compared.

    Attributes:
        name: of its segmenter.
        segmenter: whose activations it stands for.
        dictionary: plain fit.
        alive: bool [m].
        probe: unseen slices of its cohort.
    """

    name: str
    segmenter: Segmenter
    dictionary: SparseAutoencoder
    alive: Tensor
    probe: SliceSet


@dataclass(frozen=True)
class Controls:
    """Dictionaries, with their live latents, that bound what a shared fraction can mean."""

    rotated_target: tuple[SparseAutoencoder, Tensor]
    reordered_source: tuple[SparseAutoencoder, Tensor]
    reseeded_source: tuple[SparseAutoencoder, Tensor]

    def all(self) -> list[tuple[SparseAutoencoder, Tensor]]:
        """The three, in a fixed order."""
        return [self.rotated_target, self.reordered_source, self.reseeded_source]


def compare(
    sides: tuple[Side, Side],
    controls: Controls | None,
    *,
    tau: float,
    seed: int,
    notes: Mapping[str, bool],
    draft: Draft,
    progress: Progress,
) -> None:
    """Align two dictionaries and write what was found.

    Args:
        sides: source and target.
        controls: None where the two do not live in one activation space: then only function is compared.
        tau: cosine threshold of S.
        seed: of the bootstrap of stability.
        notes: what the reader must know of the pair.
        draft: of kind ``alignment``: functional.parquet and pair.json; with ``controls`` also `Alignment.write`'s
            files and methods.parquet.
        progress: of 3 steps.
    """
    from seglens.diffing.functional import common_grid, weight_matched_function

    source, target = sides
    probes = [source.probe] if source.probe.hash == target.probe.hash else [source.probe, target.probe]
    seen = _Seen(source, probes), _Seen(target, probes)
    grid = common_grid(seen[0].grid, seen[1].grid)
    codes = seen[0].codes(source.dictionary, grid), seen[1].codes(target.dictionary, grid)
    again = seen[0].codes(controls.reseeded_source[0], grid) if controls else None
    figures, functional = _by_function(codes, again, grid)
    progress(1, 3)
    if controls is not None:
        alignment, figures_by_weight, methods = _by_weights(source, target, controls, tau, seed)
        figures |= figures_by_weight | {"function": weight_matched_function(alignment, *codes)}
        alignment.with_figures(**figures).with_notes(notes).write(draft)
        draft.save_table("methods", methods)
    progress(2, 3)
    draft.save_table("functional", functional)
    draft.save_document(
        "pair",
        {
            "source": source.name,
            "target": target.name,
            "comparable_by_weights": controls is not None,
            "figures": figures,
            "n_probe_slices": sum(len(slices) for slices in probes),
        },
    )
    progress(3, 3)


def same_start(segmenters: Mapping[str, SegmenterSettings], source: str, target: str) -> bool:
    """Whether one model's weights were the start of both."""

    def origin(name: str) -> str:
        above = segmenters[name].init_from
        return origin(above) if above else name

    a, b = origin(source), origin(target)
    pretrained = segmenters[a].pretrained
    return a == b or (pretrained is not None and pretrained == segmenters[b].pretrained)


def probe_of(slices: SliceSet) -> SliceSet:
    """At most half of `PROBE_SLICES`, evenly spaced."""
    step = max(1, len(slices) // (PROBE_SLICES // 2))
    return slices.select(list(range(0, len(slices), step))[: PROBE_SLICES // 2])


class _Seen:
    """What one side's network computes at its hookpoint on the probes: one pass for any number of dictionaries."""

    def __init__(self, side: Side, probes: Sequence[SliceSet]):
        from seglens.activations.hooks import activations

        with torch.no_grad():
            grids = [
                activations(side.segmenter, side.dictionary.hookpoint, slices.images(rows).to(side.segmenter.device))
                for slices in probes
                for rows in slices.batches(32)
            ]
        tokens = torch.cat([grid.cpu() for grid in grids])
        self.grid = (tokens.shape[1], tokens.shape[2])
        self._tokens = tokens.flatten(0, 2)

    def codes(self, dictionary: SparseAutoencoder, grid: tuple[int, int]) -> Codes:
        """Codes of the probe slices, slice after slice, pooled to a common grid."""
        from seglens.diffing.functional import pool_codes

        return pool_codes(dictionary.encode(self._tokens), self.grid, grid)


def _by_function(
    codes: tuple[Codes, Codes], again: Codes | None, grid: tuple[int, int]
) -> tuple[dict[str, float | None], pl.DataFrame]:
    """Matching by function, its null (same place, other slices) and its ceiling (``again``: one model, other seed)."""
    from seglens.diffing.functional import functional_alignment

    found = functional_alignment(*codes)
    figures = {
        "functional": found.mean_correlation,
        "functional_floor": functional_alignment(codes[0], _other_slices(codes[1], grid[0] * grid[1])).mean_correlation,
    }
    if again is not None:
        figures["functional_ceiling"] = functional_alignment(codes[0], again).mean_correlation
    return figures, found.pairs


def _by_weights(
    source: Side, target: Side, controls: Controls, tau: float, seed: int
) -> tuple[Alignment, dict[str, float | None], pl.DataFrame]:
    from seglens.diffing.agreement import alignment_metrics
    from seglens.diffing.sharing import align

    def aligned(dictionary: SparseAutoencoder, alive: Tensor) -> Alignment:
        return align(source.dictionary, dictionary, tau=tau, alive_source=source.alive, alive_target=alive)

    alignment = align(
        source.dictionary,
        target.dictionary,
        tau=tau,
        alive_source=source.alive,
        alive_target=target.alive,
        source_name=source.name,
        target_name=target.name,
    )
    figures: dict[str, float | None] = {
        "floor": aligned(*controls.rotated_target).shared_share,
        "ceiling": aligned(*controls.reordered_source).shared_share,
        "ceiling_other_seed": aligned(*controls.reseeded_source).shared_share,
    }
    methods = alignment_metrics(
        source.dictionary,
        target.dictionary,
        tau=tau,
        alive_source=source.alive,
        alive_target=target.alive,
        seed=seed,
    )
    return alignment, figures, methods


def _other_slices(codes: Codes, tokens_a_slice: int) -> Codes:
    """Codes of another slice at the same position, half the probe away: only place is in common."""
    n_slices = codes.n // tokens_a_slice
    order = torch.arange(codes.n).reshape(n_slices, tokens_a_slice).roll(n_slices // 2 or 1, dims=0)
    return codes.rows(order.reshape(-1))
