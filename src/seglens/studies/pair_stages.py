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
    source, target = sides
    probes = [source.probe] if source.probe.hash == target.probe.hash else [source.probe, target.probe]
    figures, functional = _by_function(source, target, controls, probes)
    progress(1, 3)
    if controls is not None:
        alignment, figures_by_weight, methods = _by_weights(source, target, controls, tau, seed)
        draft.save_table("methods", methods)
        codes = [_codes(side.segmenter, side.dictionary, probes)[0] for side in (source, target)]
        from seglens.diffing.functional import weight_matched_function

        figures |= figures_by_weight | {"function": weight_matched_function(alignment, *codes)}
        alignment.with_figures(**figures).with_notes(notes).write(draft)
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


def _by_function(
    source: Side, target: Side, controls: Controls | None, probes: Sequence[SliceSet]
) -> tuple[dict[str, float | None], pl.DataFrame]:
    from seglens.diffing.functional import common_grid, functional_alignment, pool_codes

    codes_a, grid_a = _codes(source.segmenter, source.dictionary, probes)
    codes_b, grid_b = _codes(target.segmenter, target.dictionary, probes)
    grid = common_grid(grid_a, grid_b)
    codes_a, codes_b = pool_codes(codes_a, grid_a, grid), pool_codes(codes_b, grid_b, grid)
    found = functional_alignment(codes_a, codes_b)
    elsewhere = functional_alignment(codes_a, _other_slices(codes_b, grid[0] * grid[1]))
    figures = {"functional": found.mean_correlation, "functional_floor": elsewhere.mean_correlation}
    if controls is not None:
        again = pool_codes(_codes(source.segmenter, controls.reseeded_source[0], probes)[0], grid_a, grid)
        figures["functional_ceiling"] = functional_alignment(codes_a, again).mean_correlation
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


def _codes(
    segmenter: Segmenter, dictionary: SparseAutoencoder, probes: Sequence[SliceSet]
) -> tuple[Codes, tuple[int, int]]:
    """Codes of the probe slices, slice after slice, and the token grid."""
    from seglens.activations.hooks import activations

    with torch.no_grad():
        grid = torch.cat(
            [
                activations(segmenter, dictionary.hookpoint, slices.images(rows).to(segmenter.device)).cpu()
                for slices in probes
                for rows in slices.batches(32)
            ]
        )
    return dictionary.encode(grid.flatten(0, 2)), (grid.shape[1], grid.shape[2])


def _other_slices(codes: Codes, tokens_a_slice: int) -> Codes:
    """Codes of another slice at the same position, half the probe away: only place is in common."""
    n_slices = codes.n // tokens_a_slice
    order = torch.arange(codes.n).reshape(n_slices, tokens_a_slice).roll(n_slices // 2 or 1, dims=0)
    return codes.rows(order.reshape(-1))
