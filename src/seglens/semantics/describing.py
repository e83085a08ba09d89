"""From a dictionary and slices to the numbers of a LatentAtlas, batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

import numpy as np
import polars as pl
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from seglens.cohorts.patients import other_slice_rows, patient_halves
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress
from seglens.semantics.exemplars import Exemplars, RankBy, TopExemplars
from seglens.semantics.geometry import (
    BOUNDARY,
    TOTAL,
    boundary_band,
    brain_depth,
    linear_metrics,
    mask_regions,
    mass_in_regions,
    pool_regions,
    region_names,
    slice_regions,
)
from seglens.semantics.naming import MIXED, UNREPLICATED, side, top_class
from seglens.shapes import Extent

CATEGORIES = ("foreground", "background", "boundary", MIXED, UNREPLICATED)
SLICES_AT_ONCE = 2
"""Regions at full resolution of so many slices; of more, they leave the cache and take twice the time."""
OF_SURFACE = ("edge", "depth", "angular_coverage")
"""Metrics of the distance from the brain's surface."""


@dataclass(frozen=True)
class Measured:
    """Sums of one pass over the slices of some patients.

    Attributes:
        sums: mass of every latent in every region, pixels x activation.
        elsewhere: the same in the classes and boundaries of another patient's masks; nothing of them is expected there.
        even: mass of an even response over each class, and over all but the background, in every region.
        mass: sum of codes.
        firings: tokens at which a latent is active.
        region_pixels: pixels of each region over all slices.
        n_tokens: seen.
    """

    sums: Float64[Tensor, "m R"]
    elsewhere: Float64[Tensor, "m R"]
    even: Float64[Tensor, "c R"]
    mass: Float64[Tensor, " m"]
    firings: Int64[Tensor, " m"]
    region_pixels: Float64[Tensor, " R"]
    n_tokens: int

    def __add__(self, other: "Measured") -> "Measured":
        """The patients of both."""
        return Measured(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def measure(
    lens: Lens,
    slices: SliceSet,
    *,
    top_k: int,
    batch_size: int,
    rank_by: RankBy,
    progress: Progress,
) -> tuple[tuple[Measured, Measured], tuple[Exemplars, Exemplars]]:
    """Pass over the slices once: forward up to the hookpoint, encode, sum over pooled regions, keep the exemplars.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: with masks, at least one.
        top_k: exemplars kept of each latent.
        batch_size: slices a pass.
        rank_by: ``mass`` or ``peak``, as in `TopExemplars`.
        progress: told after each batch, in slices.

    Returns:
        Sums and exemplars of each half of the patients.

    Raises:
        ValueError: no slices.
    """
    m, half = lens.dictionary.n_latents, patient_halves(slices.index)
    others = elsewhere_rows(slices)
    sums: list[list[Measured]] = [[], []]
    exemplars: list[TopExemplars] = []
    for view in lens.over(slices, batch_size=batch_size, progress=progress):
        rows, codes = torch.as_tensor(view.rows), view.codes.to("cpu")
        if not exemplars:
            n_regions = len(region_names(slices.labels))
            exemplars = [TopExemplars(m, top_k, view.grid, n_regions, rank_by) for _ in range(2)]
        for number in range(2):
            places = (half[rows] == number).nonzero()[:, 0]
            tokens = torch.arange(codes.n).view(len(rows), -1)[places].flatten()
            part, mine = codes.rows(tokens), rows[places]
            pooled, elsewhere, pixels = _pooled(slices, mine, mine if others is None else others[mine], view.grid)
            sums[number].append(_measured(part, pooled, elsewhere, pixels, slices.labels))
            if len(places):
                exemplars[number].update(part, mine.tolist(), pooled)
    if not exemplars:
        raise ValueError(f"{slices.name!r} has no slices; nothing to describe")
    first, second = (reduce(Measured.__add__, parts) for parts in sums)
    one, other = (kept.result() for kept in exemplars)
    return (first, second), (one, other)


def elsewhere_rows(slices: SliceSet) -> Int64[Tensor, " n"] | None:
    """For every slice one of another patient; None where one patient has more than half of them."""
    try:
        return other_slice_rows(slices.index)
    except ValueError:
        return None


def _measured(
    codes: Codes,
    pooled: Float[Tensor, "n R"],
    elsewhere: Float[Tensor, "n R"],
    pixels: Float64[Tensor, " R"],
    labels: Mapping[int, str],
) -> Measured:
    shares = pooled / pooled[:, :1].clamp_min(1e-12)
    classes = shares[:, 1 : 1 + len(labels)]
    inside = classes[:, int(0 in labels) :].sum(1, keepdim=True)
    return Measured(
        sums=mass_in_regions(codes, pooled),
        elsewhere=mass_in_regions(codes, elsewhere),
        even=torch.cat([classes, inside], 1).double().T @ pooled.double(),
        mass=mass_in_regions(codes, torch.ones(codes.n, 1))[:, 0],
        firings=codes.firing_counts(),
        region_pixels=pixels,
        n_tokens=codes.n,
    )


def _pooled(
    slices: SliceSet, rows: Int64[Tensor, " b"], others: Int64[Tensor, " b"], grid: Extent
) -> tuple[Float[Tensor, "n R"], Float[Tensor, "n R"], Float64[Tensor, " R"]]:
    """The regions of these slices pooled at their tokens, and how many pixels each region has in all of them.

    Args:
        slices: with masks and brains.
        rows: of the slices.
        others: slices whose masks stand in the place of their own in the second array.
        grid: of their tokens.
    """
    masks, brains, other_masks = slices.masks(rows), slices.brains(rows), slices.masks(others)
    depth = brain_depth(brains, slices.spacing_mm(rows.tolist()))
    band, names = boundary_band(slices.size, grid), region_names(slices.labels)
    of_masks = names.index(BOUNDARY) + 1
    pooled, elsewhere = [torch.zeros(0, len(names))], [torch.zeros(0, of_masks)]
    pixels = torch.zeros(len(names), dtype=torch.float64)
    for few in torch.arange(len(rows)).split(SLICES_AT_ONCE):
        regions = slice_regions(masks[few], brains[few], depth[few], slices.labels, band)
        pooled.append(rearrange(pool_regions(regions, grid), "B R d h w -> (B d h w) R"))
        pixels += regions.sum((2, 3, 4)).double().sum(0)  # counts of one slice are exact in float32
        if not torch.equal(rows, others):
            replaced = mask_regions(other_masks[few], slices.labels, band)
            elsewhere.append(rearrange(pool_regions(replaced, grid), "B R d h w -> (B d h w) R"))
    own = torch.cat(pooled)
    return own, torch.cat([torch.cat(elsewhere), own[:, of_masks:]], 1) if len(elsewhere) > 1 else own, pixels


def base_rates(measured: Measured, labels: Mapping[int, str]) -> dict[str, float]:
    """Share of all pixels of every class."""
    pixels = dict(zip(region_names(labels), measured.region_pixels.tolist(), strict=True))
    return {name: pixels[f"p_{name}"] / pixels[TOTAL] if pixels[TOTAL] else 0.0 for name in labels.values()}


def facts_table(
    measured: Measured,
    exemplars: Exemplars,
    local: Mapping[str, Float[Tensor, " e"]],
    labels: Mapping[int, str],
    *,
    of_windows: bool = False,
) -> pl.DataFrame:
    """One row a latent, as `LatentAtlas.table` says, without the columns that follow from its name.

    Args:
        measured: of the slices.
        exemplars: of every latent.
        local: of ``localise``, of each exemplar.
        labels: label value to class name.
        of_windows: samples show parts of volumes, whose borders are no surface: what is measured from the brain's
            surface is null.
    """
    m, latents = len(measured.mass), exemplars.latents
    linear = linear_metrics(measured.sums, labels)
    columns: dict[str, Tensor] = {
        "firing_rate": measured.firings / measured.n_tokens,
        "mean_activation": measured.mass / measured.firings,
        "mass": measured.mass,
        **linear,
    }
    for name, base in base_rates(measured, labels).items():
        columns[f"lift_{name}"] = linear[f"p_{name}"] / (base if base else float("nan"))
    for name, values in local.items():
        columns[name] = _means(latents, values, m)
    for name, values in linear_metrics(exemplars.sums, labels).items():
        columns[f"{name}_top"] = _means(latents, values, m)
    if of_windows:
        columns |= {name: torch.full((m,), torch.nan) for name in columns if name.removesuffix("_top") in OF_SURFACE}
    table = pl.DataFrame(
        {"latent": pl.Series(np.arange(m), dtype=pl.Int32)}
        | {
            name: pl.Series(values.double().numpy(), dtype=pl.Float64).fill_nan(None)
            for name, values in columns.items()
        }
        | {
            "n_exemplars": pl.Series(torch.bincount(latents, minlength=m).numpy(), dtype=pl.Int32),
            "dead": pl.Series((measured.firings == 0).numpy()),
        }
    )
    even = even_boundaries(measured, labels)
    rows: list[dict[str, Any]] = []
    for row in table.iter_rows(named=True):
        top = None if row["dead"] else top_class(row, labels)
        of_side = side(row["centroid_column"], row["lateral_spread"])
        rows.append({"side": of_side, "top_class": top, "boundary_even": None if top is None else even[top]})
    schema = {"side": pl.String, "top_class": pl.String, "boundary_even": pl.Float64}
    return table.hstack(pl.DataFrame(rows, schema=schema))


def even_boundaries(measured: Measured, labels: Mapping[int, str]) -> dict[str, float | None]:
    """Share in the boundary band of an even response over each class; "mixed": over all but the background.

    None where a class never occurs.
    """
    names = region_names(labels)
    total, band = (measured.even[:, names.index(name)].tolist() for name in (TOTAL, BOUNDARY))
    classes = [*(labels[value] for value in sorted(labels)), MIXED]
    return {name: of / all_of if all_of else None for name, of, all_of in zip(classes, band, total, strict=True)}


def category_mass(table: pl.DataFrame, labels: Mapping[int, str]) -> dict[str, float]:
    """Share of all activation mass in latents of each category: those of `CATEGORIES`.

    The paper's figure 3. A latent belongs to "boundary" where its name says so, else to its top class, and to none of
    these where that class does not come back in both halves of the patients.

    Returns:
        Shares that sum to 1; all 0 where nothing fires.
    """
    background = labels.get(0)
    category = (
        pl.when(pl.col("name").str.contains(", boundary"))
        .then(pl.lit("boundary"))
        .when(pl.col("class_replicates").not_())
        .then(pl.lit(UNREPLICATED))
        .when(pl.col("top_class") == MIXED)
        .then(pl.lit(MIXED))
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
    return {name: mass.get(name, 0.0) / total if total else 0.0 for name in CATEGORIES}


def _means(latents: Int64[Tensor, " e"], values: Tensor, m: int) -> Float64[Tensor, " m"]:
    """Mean of the finite values of each latent; NaN where there is none."""
    known = values.isfinite()
    latents, values = latents[known], values[known].double()
    return torch.bincount(latents, weights=values, minlength=m).double() / torch.bincount(latents, minlength=m)
