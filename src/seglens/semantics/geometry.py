"""Where in the brain a latent fires (paper, appendix C): the metrics that are linear in its map.

Class association, inside, boundary, brain-edge and depth are ratios of sums ``sum_ij h_ij R_ij`` with h the bilinearly
upsampled map and R a region of the slice. Upsampling is linear, so ``sum (U z) R = sum z (U^T R)``: regions are pooled
once by the adjoint ``U^T``, and one sparse product of codes with them gives every latent's sums exactly, without a map.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.shapes import BrainMasks, Masks

BOUNDARY_PIXELS = 2
"""The boundary band: pixels with another label within so many rows and columns, so about 2 on either side."""
EDGE_DEPTH = 0.15
"""The brain's edge band: brain pixels of at most this normalised depth (about a quarter of a slice's brain)."""

TOTAL, BOUNDARY, BRAIN, EDGE, DEPTH = "total", "boundary", "brain", "edge", "depth"

Regions = Float[Tensor, "B R H W"]


def region_names(labels: Mapping[int, str]) -> list[str]:
    """The axis R of ``slice_regions``: total, one ``p_<class>`` a label, then boundary, brain, edge, depth."""
    return [TOTAL, *(f"p_{labels[value]}" for value in sorted(labels)), BOUNDARY, BRAIN, EDGE, DEPTH]


@cache
def upsampling(cells: int, pixels: int) -> Float[Tensor, "pixels cells"]:
    """The matrix of one axis of torch's bilinear upsampling with ``align_corners=False``; shared, never written to."""
    return functional.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T


def upsample(maps: Float[Tensor, "e h w"], size: tuple[int, int]) -> Float[Tensor, "e H W"]:
    """Maps on the token grid, bilinearly at full resolution."""
    rows, columns = upsampling(maps.shape[1], size[0]), upsampling(maps.shape[2], size[1])
    return rows @ maps @ columns.T


def pool_regions(regions: Regions, grid: tuple[int, int]) -> Float[Tensor, "B R h w"]:
    """The adjoint of ``upsample``: what each token's upsampled bump holds of each region, in pixels."""
    rows, columns = upsampling(grid[0], regions.shape[2]), upsampling(grid[1], regions.shape[3])
    return rows.T @ (regions @ columns)


def slice_regions(
    masks: Masks, brains: BrainMasks, depth: Float[Tensor, "B H W"], labels: Mapping[int, str]
) -> Regions:
    """Every region of appendix C as an image, in the order of ``region_names``.

    Args:
        masks: label values.
        brains: True inside the brain.
        depth: of ``brain_depth``.
        labels: values that have a class.
    """
    classes = [masks == value for value in sorted(labels)]
    parts = [torch.ones_like(brains), *classes, label_boundary(masks), brains, edge_band(depth, brains), depth]
    regions = torch.empty(len(masks), len(parts), *masks.shape[1:])
    for number, part in enumerate(parts):
        regions[:, number] = part
    return regions


def label_boundary(masks: Masks, pixels: int = BOUNDARY_PIXELS) -> Bool[Tensor, "B H W"]:
    """Pixels that have another label within ``pixels`` rows and columns: a band on both sides of a boundary."""
    highest = lowest = masks
    for axis in (1, 2):
        highest = _over_window(highest, axis, pixels, torch.maximum)
        lowest = _over_window(lowest, axis, pixels, torch.minimum)
    return highest != lowest


def brain_depth(
    brains: BrainMasks, spacing: Sequence[tuple[float | None, float | None]] | None = None
) -> Float[Tensor, "B H W"]:
    """Distance to the brain's boundary over the slice's largest: near 0 at the surface, 1 at the deepest pixel.

    Args:
        brains: True inside the brain; the image's border counts as outside.
        spacing: of rows and columns, mm, one pair a slice; only their ratio matters. None, or values that are missing
            or not positive: square pixels.

    Returns:
        0 outside the brain.
    """
    from scipy.ndimage import distance_transform_edt

    depth = torch.zeros(brains.shape)
    for number, brain in enumerate(brains):
        rows, columns = brain.any(1).nonzero()[:, 0], brain.any(0).nonzero()[:, 0]
        if not len(rows):
            continue
        # The box around the brain and one pixel of outside give the same distances as the whole slice.
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        padded = functional.pad(brain[box], (1, 1, 1, 1)).numpy()
        distance = torch.from_numpy(distance_transform_edt(padded, sampling=_sampling(spacing, number))).float()
        depth[number][box] = distance[1:-1, 1:-1] / distance.max()
    return depth


def edge_band(depth: Float[Tensor, "B H W"], brains: BrainMasks) -> Bool[Tensor, "B H W"]:
    """The brain's outermost band: depth at most ``EDGE_DEPTH``; never empty where there is a brain."""
    at_surface = torch.where(brains, depth, 2).flatten(1).min(1).values[:, None, None]
    return brains & (depth <= at_surface.clamp_min(EDGE_DEPTH))


def spacing_of(slices: SliceSet, rows: Sequence[int]) -> list[tuple[float | None, float | None]]:
    """Row and column spacing (mm) of these slices."""
    return slices.index[list(rows)].select("spacing_row_mm", "spacing_column_mm").rows()


def mass_in_regions(codes: Codes, pooled: Float[Tensor, "n R"]) -> Float64[Tensor, "m R"]:
    """Activation mass of each latent's upsampled maps in each region: one sparse product.

    Args:
        codes: of whole slices, on a CPU.
        pooled: regions pooled at the same tokens.
    """
    return torch.from_numpy(codes.to_scipy().T @ pooled.double().numpy())


def linear_metrics(sums: Float64[Tensor, "e R"], labels: Mapping[int, str]) -> dict[str, Float64[Tensor, " e"]]:
    """The ratios of appendix C from sums over regions (of latents, or of single maps); NaN where there is no mass.

    Returns:
        p_<class> (over all mass), inside (mass in any class but 0), boundary, brain (share of mass inside the brain),
        edge (over the mass in the brain), depth (mean over the mass in the brain).
    """
    by_name = dict(zip(region_names(labels), sums.unbind(1), strict=True))
    total, brain = by_name[TOTAL], by_name[BRAIN]
    shares = {name: mass / total for name, mass in by_name.items() if name.startswith("p_")}
    foreground = [by_name[f"p_{name}"] for value, name in sorted(labels.items()) if value != 0]
    inside = torch.stack(foreground).sum(0) / total if foreground else torch.zeros_like(total)
    return {
        **shares,
        "inside": inside,
        "boundary": by_name[BOUNDARY] / total,
        "brain": brain / total,
        "edge": by_name[EDGE] / brain,
        "depth": by_name[DEPTH] / brain,
    }


def _over_window(values: Masks, axis: int, pixels: int, extreme: Callable[..., Tensor]) -> Masks:
    """The largest or smallest value among those up to ``pixels`` before and behind; in bytes, 10 x max_pool2d."""
    out, length = values.clone(), values.shape[axis]
    for shift in range(1, min(pixels, length - 1) + 1):
        before, behind = values.narrow(axis, 0, length - shift), values.narrow(axis, shift, length - shift)
        at_start, at_end = out.narrow(axis, 0, length - shift), out.narrow(axis, shift, length - shift)
        extreme(at_start, behind, out=at_start)
        extreme(at_end, before, out=at_end)
    return out


def _sampling(spacing: Sequence[tuple[float | None, float | None]] | None, number: int) -> tuple[float, float]:
    row, column = spacing[number] if spacing is not None else (None, None)
    if row is None or column is None or not (0 < row < float("inf") and 0 < column < float("inf")):
        return 1.0, 1.0
    return float(row), float(column)
