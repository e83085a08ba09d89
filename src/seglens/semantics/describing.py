"""From a dictionary and slices to the numbers of a LatentAtlas, batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress
from seglens.semantics.exemplars import RankBy, TopExemplars
from seglens.semantics.geometry import (
    brain_depth,
    linear_metrics,
    mass_in_regions,
    pool_regions,
    region_names,
    slice_regions,
    spacing_of,
)
from seglens.semantics.naming import MIXED, name_latent, side, top_class
from seglens.shapes import Extent

SLICES_AT_ONCE = 2
"""Regions at full resolution of so many slices; of more, they leave the cache and take twice the time."""


@dataclass(frozen=True)
class Measured:
    """Sums and exemplars of one pass over the slices.

    Attributes:
        sums: mass of every latent in every region, pixels x activation.
        mass: sum of codes.
        firings: tokens at which a latent is active.
        region_pixels: pixels of each region over all slices.
        exemplars: of every latent.
        grid: slices, rows and columns of the tokens.
        n_tokens: seen.
    """

    sums: Float64[Tensor, "m R"]
    mass: Float64[Tensor, " m"]
    firings: Int64[Tensor, " m"]
    region_pixels: Float64[Tensor, " R"]
    exemplars: TopExemplars
    grid: Extent
    n_tokens: int


def measure(
    lens: Lens,
    slices: SliceSet,
    *,
    top_k: int,
    batch_size: int,
    rank_by: RankBy,
    progress: Progress,
) -> Measured:
    """Pass over the slices once: forward up to the hookpoint, encode, sum over pooled regions, keep the exemplars.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: with masks, at least one.
        top_k: exemplars kept of each latent.
        batch_size: slices a pass.
        rank_by: ``mass`` or ``peak``, as in `TopExemplars`.
        progress: told after each batch, in slices.

    Raises:
        ValueError: no slices.
    """
    m, n_regions = lens.dictionary.n_latents, len(region_names(slices.labels))
    sums = torch.zeros(m, n_regions, dtype=torch.float64)
    mass, firings = torch.zeros(m, dtype=torch.float64), torch.zeros(m, dtype=torch.int64)
    region_pixels = torch.zeros(n_regions, dtype=torch.float64)
    exemplars: TopExemplars | None = None
    grid, n_tokens = (0, 0, 0), 0
    for view in lens.over(slices, batch_size=batch_size, progress=progress):
        codes, rows, grid = view.codes.to("cpu"), view.rows, view.grid
        pooled, pixels = _pooled(slices, rows, grid)
        region_pixels += pixels
        sums += mass_in_regions(codes, pooled)
        mass += mass_in_regions(codes, torch.ones(codes.n, 1))[:, 0]
        firings += codes.firing_counts()
        n_tokens += codes.n
        exemplars = exemplars or TopExemplars(m, top_k, grid, n_regions, rank_by)
        exemplars.update(codes, rows, pooled)
    if exemplars is None:
        raise ValueError(f"{slices.name!r} has no slices; nothing to describe")
    return Measured(sums, mass, firings, region_pixels, exemplars, grid, n_tokens)


def _pooled(slices: SliceSet, rows: Sequence[int], grid: Extent) -> tuple[Float[Tensor, "n R"], Float64[Tensor, " R"]]:
    """The regions of these slices pooled at their tokens, and how many pixels each region has in all of them."""
    masks, brains = slices.masks(rows), slices.brains(rows)
    depth = brain_depth(brains, spacing_of(slices, rows))
    pooled, pixels = [], []
    for few in torch.arange(len(rows)).split(SLICES_AT_ONCE):
        regions = slice_regions(masks[few], brains[few], depth[few], slices.labels)
        pooled.append(rearrange(pool_regions(regions, grid), "B R d h w -> (B d h w) R"))
        pixels.append(regions.sum((2, 3, 4)).double())  # counts of one slice are exact in float32
    return torch.cat(pooled), torch.cat(pixels).sum(0)


def base_rates(measured: Measured, labels: Mapping[int, str]) -> dict[str, float]:
    """Share of all pixels of every class."""
    pixels = dict(zip(region_names(labels), measured.region_pixels.tolist(), strict=True))
    return {name: pixels[f"p_{name}"] / pixels["total"] for name in labels.values()}


def latent_table(
    measured: Measured,
    exemplar_latents: Int64[Tensor, " e"],
    exemplar_sums: Float64[Tensor, "e R"],
    local: Mapping[str, Float[Tensor, " e"]],
    labels: Mapping[int, str],
) -> pl.DataFrame:
    """One row a latent, as `LatentAtlas.table` says.

    Args:
        measured: of all slices.
        exemplar_latents: the latent of each exemplar.
        exemplar_sums: mass of each exemplar's map in the regions.
        local: of ``localise``, of each exemplar.
        labels: label value to class name.
    """
    m = len(measured.mass)
    linear = linear_metrics(measured.sums, labels)
    top = linear_metrics(exemplar_sums, labels)
    columns: dict[str, Tensor] = {
        "firing_rate": measured.firings / measured.n_tokens,
        "mean_activation": measured.mass / measured.firings,
        "mass": measured.mass,
        **linear,
    }
    for name, base in base_rates(measured, labels).items():
        columns[f"lift_{name}"] = linear[f"p_{name}"] / (base if base else float("nan"))
    for name, values in local.items():
        columns[name] = _means(exemplar_latents, values, m)
    for name, values in top.items():
        columns[f"{name}_top"] = _means(exemplar_latents, values, m)
    n_exemplars = torch.bincount(exemplar_latents, minlength=m)
    table = pl.DataFrame(
        {"latent": pl.Series(np.arange(m), dtype=pl.Int32)}
        | {
            name: pl.Series(values.double().numpy(), dtype=pl.Float64).fill_nan(None)
            for name, values in columns.items()
        }
        | {
            "n_exemplars": pl.Series(n_exemplars.numpy(), dtype=pl.Int32),
            "dead": pl.Series((measured.firings == 0).numpy()),
        }
    )
    rows: list[dict[str, Any]] = []
    for row in table.iter_rows(named=True):
        words: dict[str, Any] = {"side": side(row["centroid_column"], row["lateral_spread"])}
        words["top_class"] = None if row["dead"] else top_class(row, labels)
        words["name"] = name_latent({**row, **words}, labels)
        rows.append(words)
    return table.hstack(pl.DataFrame(rows, schema={"side": pl.String, "top_class": pl.String, "name": pl.String}))


def category_mass(table: pl.DataFrame, labels: Mapping[int, str]) -> dict[str, float]:
    """Share of all activation mass in latents of each category: "foreground", "background", "boundary", "mixed".

    The paper's figure 3. A latent belongs to "boundary" where its name says so, else to its top class.

    Returns:
        Shares that sum to 1; all 0 where nothing fires.
    """
    background = labels.get(0)
    category = (
        pl.when(pl.col("name").str.contains(", boundary"))
        .then(pl.lit("boundary"))
        .when(pl.col("top_class") == MIXED)
        .then(pl.lit("mixed"))
        .when(pl.col("top_class") == background)
        .then(pl.lit("background"))
        .otherwise(pl.lit("foreground"))
    )
    sums = (
        table.filter(~pl.col("dead"))
        .group_by(category.alias("category"), maintain_order=True)
        .agg(pl.col("mass").sum())
    )
    mass = dict(zip(sums["category"], sums["mass"], strict=True))
    total = sum(mass.values())
    return {
        name: mass.get(name, 0.0) / total if total else 0.0
        for name in ("foreground", "background", "boundary", "mixed")
    }


def _means(latents: Int64[Tensor, " e"], values: Tensor, m: int) -> Float64[Tensor, " m"]:
    """Mean of the finite values of each latent; NaN where there is none."""
    known = values.isfinite()
    latents, values = latents[known], values[known].double()
    return torch.bincount(latents, weights=values, minlength=m).double() / torch.bincount(latents, minlength=m)
