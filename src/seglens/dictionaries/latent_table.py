"""Latents of one or several hookpoints, pooled over slices, predicted components, volumes or patients."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from seglens.activations.cells import cell_shares
from seglens.activations.hooks import capture
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.runtime.distributed import gather_object, rank_range
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.decision import most_likely
from seglens.segmenters.inference import BatchWork, samples_at_once
from seglens.shapes import Extent, Images, Masks, grid_of

Pool = Literal["mass", "peak", "rate"]
Unit = Literal["slice", "component", "volume", "patient"]
POOLS: tuple[Pool, ...] = ("mass", "peak", "rate")


@dataclass(frozen=True)
class LatentTable:
    """How strongly latents answer in each unit.

    Attributes:
        units: one row a unit. ``by="slice"``: row, case, patient, volume. ``"component"``: these and component (number
            within the slice, from 1), label (its most frequent predicted class, of equal ones the first), pixels.
            ``"volume"``: volume, case, patient. ``"patient"``: patient.
        latents: one row a column of the values: hookpoint, latent, dictionary_hash.
        values: for each pool a matrix [u c], float32. A token counts in a component by the share of its cell that the
            component covers, else by 1. ``mass``: sum of codes over tokens. ``peak``: largest code of any token that
            counts, 0 where none fires. ``rate``: share of the counted tokens at which the latent fires, 0..1.
    """

    units: pl.DataFrame
    latents: pl.DataFrame
    values: dict[Pool, Float[Tensor, "u c"]]


Sums = Float64[Tensor, "4 u c"]
"""Of some units: tokens that count, mass, weight of the tokens at which a latent fires, and peak."""

Members = tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Float64[Tensor, " t"]]
"""Units, tokens and weights: which tokens of a batch count in which of its units, and how much."""


def latent_table(
    lenses: Sequence[Lens],
    slices: SliceSet,
    *,
    pool: Sequence[Pool] = POOLS,
    by: Unit = "slice",
    batch_size: int = 32,
    progress: Progress = silent,
) -> LatentTable:
    """Pool every latent of some lenses over units of a set of slices; one pass for all lenses.

    In a torch.distributed group the units are dealt to the processes, and every process returns the whole table: the
    same bits whatever their number.

    Args:
        lenses: of one segmenter, each of a hookpoint of its own.
        slices: masks are not used.
        pool: what is given of each latent, see `LatentTable`.
        by: the units. ``"component"``: connected components (by edges, in a volume by faces) of each sample's
            predicted foreground.
        batch_size: slices a pass.
        progress: told after each batch, in slices of this process.

    Returns:
        A table of as many columns as the lenses have latents, lens after lens. Slices without predicted foreground have
        no components; other units come in the order in which they first appear.

    Raises:
        ValueError: no lens, lenses of several segmenters or twice the same hookpoint, or slices of other sequences.

    Example:
        >>> table = latent_table([lens], slices, by="patient")
        >>> table.values["rate"].shape
        torch.Size([2, 64])
    """
    hookpoints = [lens.hookpoint for lens in lenses]
    if not lenses or len({lens.segmenter.hash for lens in lenses}) > 1 or len(set(hookpoints)) < len(hookpoints):
        raise ValueError(
            f"{len(lenses)} lenses at {', '.join(hookpoints) or 'no hookpoint'}; give at least one, all of one "
            "segmenter, each of another hookpoint"
        )
    segmenter = lenses[0].segmenter
    segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)

    def sums_of(rows: Sequence[int], images: Images) -> tuple[list[dict[str, int]], Sums]:
        with ExitStack() as stack:
            seen = [stack.enter_context(capture(segmenter, hookpoint)) for hookpoint in hookpoints]
            predicted = most_likely(segmenter.logits(images)).cpu()
        found = list(_components(predicted)) if by == "component" else []
        units = [{"row": rows[place], **described} for place, described, _ in found]
        if by != "component":
            units = [{"row": row} for row in rows]
        parts = []
        for lens, captured in zip(lenses, seen, strict=True):
            grid = grid_of(captured.tokens)
            members = _in_components(found, grid) if by == "component" else _in_slices(len(rows), grid)
            codes = lens.dictionary.encode(captured.tokens.flatten(0, 3)).to("cpu")
            parts.append(_pooled(codes, members, len(units)))
        return units, torch.cat(parts, dim=2)

    index = slices.index.select("row", "case", "patient", "volume")
    columns_of = {"volume": ["volume", "case", "patient"], "patient": ["patient"]}
    unit_of_row = torch.arange(len(slices))
    if by in columns_of:
        units = index.select(columns_of[by]).unique(by, keep="first", maintain_order=True)
        numbers = {name: number for number, name in enumerate(units[by])}
        unit_of_row = torch.tensor([numbers[name] for name in index[by]])
    work = BatchWork(sums_of, segmenter, slices, what="latents")
    batch_size = samples_at_once(segmenter, batch_size)
    blocks = _blocks(unit_of_row, batch_size)
    mine = rank_range(len(blocks))
    done, total, made = 0, sum(len(blocks[number]) for number in mine), {}
    for number in mine:
        described: list[dict[str, int]] = []
        parts: list[Sums] = []
        for start in range(0, len(blocks[number]), batch_size):
            rows = blocks[number][start : start + batch_size]
            for _, (own, part) in work.parts(rows):
                described += own
                parts.append(part)
            done += len(rows)
            progress(done, total)
        sums = torch.cat(parts, dim=1)
        made[number] = described, _added(sums, unit_of_row[blocks[number]]) if by in columns_of else sums
    every = gather_object(made)
    if by not in columns_of:
        schema: dict[str, type[pl.DataType]] = {"row": pl.UInt32}
        if by == "component":
            schema |= {"component": pl.Int32, "label": pl.UInt8, "pixels": pl.Int64}
        found = [unit for described, _ in every for unit in described]
        units = pl.DataFrame(found, schema=schema).join(index, on="row", how="left", maintain_order="left")
    tokens, mass, fired, peak = torch.cat([sums for _, sums in every], dim=1)
    pooled = {"mass": mass, "peak": peak, "rate": fired / tokens.clamp_min(1e-12)}
    latents = [
        (lens.hookpoint, latent, lens.dictionary_hash) for lens in lenses for latent in range(lens.dictionary.n_latents)
    ]
    columns = {"hookpoint": pl.String, "latent": pl.Int32, "dictionary_hash": pl.String}
    return LatentTable(
        units, pl.DataFrame(latents, schema=columns, orient="row"), {name: pooled[name].float() for name in pool}
    )


def _components(predicted: Masks) -> Iterator[tuple[int, dict[str, int], Tensor]]:
    """Place of the slice in the batch, description and mask [D H W] of every component of predicted foreground."""
    from scipy.ndimage import label

    for place, mask in enumerate(predicted):
        numbered, n = label((mask > 0).numpy())
        for number in range(1, n + 1):
            where = torch.from_numpy(np.asarray(numbered) == number)
            classes = torch.bincount(mask[where].long())
            yield place, {"component": number, "label": int(classes.argmax()), "pixels": int(where.sum())}, where


def _in_slices(n_slices: int, grid: Extent) -> Members:
    every = torch.arange(n_slices * prod(grid))
    return every // prod(grid), every, torch.ones(len(every), dtype=torch.float64)


def _in_components(found: Sequence[tuple[int, dict[str, int], Tensor]], grid: Extent) -> Members:
    if not found:
        none = torch.zeros(0, dtype=torch.int64)
        return none, none, none.double()
    shares = cell_shares(torch.stack([where for _, _, where in found]).double(), grid).flatten(1)
    units, cells = shares.nonzero().unbind(1)
    places = torch.tensor([place for place, _, _ in found])
    return units, places[units] * prod(grid) + cells, shares[units, cells]


def _pooled(codes: Codes, members: Members, n_units: int) -> Sums:
    units, tokens, weights = members
    counts = codes.offsets.diff()[tokens]
    before = counts.cumsum(0) - counts
    entries = (codes.offsets[tokens] - before).repeat_interleave(counts) + torch.arange(int(counts.sum()))
    places = units.repeat_interleave(counts) * codes.n_latents + codes.latents[entries].long()
    weight, values = weights.repeat_interleave(counts), codes.values[entries].double()
    counted = torch.zeros(n_units, dtype=torch.float64).index_add_(0, units, weights)
    empty = torch.zeros(n_units * codes.n_latents, dtype=torch.float64)
    sums = [
        counted.repeat_interleave(codes.n_latents),
        empty.index_add(0, places, weight * values),
        empty.index_add(0, places, weight),
        empty.scatter_reduce(0, places, values, "amax"),
    ]
    return torch.stack(sums).view(4, n_units, codes.n_latents)


def _blocks(unit_of_row: Int64[Tensor, " n"], batch_size: int) -> list[list[int]]:
    """Rows of whole units, unit after unit, in blocks that fill a batch: dealt to processes, they are the same."""
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    blocks: list[list[int]] = []
    for rows in unit_of_row.argsort(stable=True).split(unit_of_row.bincount().tolist()):
        if not blocks or len(blocks[-1]) >= batch_size:
            blocks.append([])
        blocks[-1] += rows.tolist()
    return blocks


def _added(sums: Float64[Tensor, "4 s c"], units: Int64[Tensor, " s"]) -> Sums:
    """Sums of each unit, from those of its slices."""
    numbers, places = units.unique(return_inverse=True)
    total = torch.zeros(4, len(numbers), sums.shape[2], dtype=torch.float64)
    total[:3].index_add_(1, places, sums[:3])
    total[3].scatter_reduce_(0, places[:, None].expand_as(sums[3]), sums[3], "amax")
    return total
