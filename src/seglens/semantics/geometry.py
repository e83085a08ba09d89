"""Where in the brain a latent fires (paper, appendix C): the metrics that are linear in its map.

Class association, inside, boundary, brain-edge and depth are ratios of sums ``sum_ij h_ij R_ij`` with h the bilinearly
upsampled map and R a region of the sample. Upsampling is linear, so ``sum (U z) R = sum z (U^T R)``: regions are pooled
once by the adjoint ``U^T``, and one sparse product of codes with them gives every latent's sums exactly, without a map.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import ceil

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from seglens.cohorts.slice_set import Spacing
from seglens.dictionaries.codes import Codes
from seglens.shapes import BrainMasks, Extent, Masks, extent_of

BOUNDARY_PIXELS = 2
"""Least half width of the boundary band, in slices, rows and columns."""
BOUNDARY_TOKENS = 0.75
"""Half width of the boundary band in tokens, where that is more: see `boundary_band`."""
EDGE_DEPTH = 0.15
"""The brain's edge band: brain pixels of at most this normalised depth (about a quarter of a slice's brain)."""

TOTAL, BOUNDARY, BRAIN, EDGE, DEPTH = "total", "boundary", "brain", "edge", "depth"

Band = tuple[int, int, int]
"""Half width of the boundary band in slices, rows and columns."""
"""Of slices, rows and columns, mm; None where it is unknown."""
Regions = Float[Tensor, "B R D H W"]


def region_names(labels: Mapping[int, str]) -> list[str]:
    """The axis R of ``slice_regions``: total, one ``p_<class>`` a label, then boundary, brain, edge, depth."""
    return [TOTAL, *(f"p_{labels[value]}" for value in sorted(labels)), BOUNDARY, BRAIN, EDGE, DEPTH]


@cache
def upsampling(cells: int, pixels: int) -> Float[Tensor, "pixels cells"]:
    """The matrix of one axis of torch's bilinear upsampling with ``align_corners=False``; shared, never written to."""
    return functional.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T


def upsample(maps: Float[Tensor, "e d h w"], size: Extent) -> Float[Tensor, "e D H W"]:
    """Maps on the token grid, linearly along each axis at full resolution."""
    depth, rows, columns = (upsampling(cells, pixels) for cells, pixels in zip(extent_of(maps), size, strict=True))
    planes = rows @ maps @ columns.T
    return planes if len(depth) == maps.shape[1] else torch.einsum("D d, e d H W -> e D H W", depth, planes)


def pool_regions(regions: Regions, grid: Extent) -> Float[Tensor, "B R d h w"]:
    """The adjoint of ``upsample``: what each token's upsampled bump holds of each region, in pixels."""
    depth, rows, columns = (upsampling(cells, pixels) for cells, pixels in zip(grid, extent_of(regions), strict=True))
    planes = rows.T @ (regions @ columns)
    return planes if len(depth) == grid[0] else torch.einsum("D d, B R D h w -> B R d h w", depth, planes)


def boundary_band(size: Extent, grid: Extent) -> Band:
    """How far the boundary band reaches to either side: three quarters of a token, and never less than 2 pixels.

    A token places nothing more finely than its own side t: its map falls linearly to nothing at a distance t from its
    centre. In a band of half width b around a straight boundary a token centred there has ``1 - (1 - b / t)^2`` of its
    mass. With a fixed band of 2 pixels that is .23 for tokens of 16 pixels, and no latent can be seen to follow a
    boundary. With ``b = 3 t / 4`` it is .94, and .72 for a token centred half a token away, the farthest that a token
    which touches the boundary can be. Where a token is 2 pixels or less, the band is of 2 pixels.

    Args:
        size: slices, rows and columns of a sample.
        grid: those of its tokens.
    """
    depth, rows, columns = (
        max(BOUNDARY_PIXELS, ceil(BOUNDARY_TOKENS * pixels / cells)) for pixels, cells in zip(size, grid, strict=True)
    )
    return depth, rows, columns


def slice_regions(
    masks: Masks, brains: BrainMasks, depth: Float[Tensor, "B D H W"], labels: Mapping[int, str], band: Band
) -> Regions:
    """Every region of appendix C as an image, in the order of ``region_names``.

    Args:
        masks: label values.
        brains: True inside the brain.
        depth: of ``brain_depth``.
        labels: values that have a class.
        band: of ``boundary_band``.
    """
    return _stacked([*_of_masks(masks, labels, band), brains, edge_band(depth, brains), depth])


def mask_regions(masks: Masks, labels: Mapping[int, str], band: Band) -> Regions:
    """The regions that follow from masks alone: the first of ``region_names``, up to boundary."""
    return _stacked(_of_masks(masks, labels, band))


def label_boundary(masks: Masks, band: Band) -> Bool[Tensor, "B D H W"]:
    """Pixels that have another label within so many slices, rows and columns: a band on both sides of a boundary."""
    highest = lowest = masks
    for axis, pixels in enumerate(band, start=1):
        highest = _over_window(highest, axis, pixels, torch.maximum)
        lowest = _over_window(lowest, axis, pixels, torch.minimum)
    return highest != lowest


def brain_depth(brains: BrainMasks, spacing: Sequence[Spacing] | None = None) -> Float[Tensor, "B D H W"]:
    """Distance to the brain's boundary over the sample's largest: near 0 at the surface, 1 at the deepest pixel.

    Args:
        brains: True inside the brain; the image's border counts as outside. Of a slice (D = 1) distances are in its
            plane.
        spacing: of slices, rows and columns, mm, one triple a sample; only their ratio matters. None, or values that
            are missing or not positive: cubes (of a slice, squares).

    Returns:
        0 outside the brain.
    """
    from scipy.ndimage import distance_transform_edt

    depth = torch.zeros(brains.shape)
    for number, brain in enumerate(brains):
        if not brain.any():
            continue
        # The box around the brain and one pixel of outside give the same distances as the whole sample.
        ends = [(int(inside[0]), int(inside[-1])) for inside in (brain_places(brain, axis) for axis in range(3))]
        box = tuple(slice(first, last + 1) for first, last in ends)
        above = 0 if len(brain) == 1 else 1
        padded = functional.pad(brain[box], (1, 1, 1, 1, above, above)).numpy()
        sampling = _sampling(spacing, number, flat=len(brain) == 1)
        distance = torch.from_numpy(distance_transform_edt(padded, sampling=sampling)).float()
        depth[number][box] = distance[above : len(distance) - above, 1:-1, 1:-1] / distance.max()
    return depth


def brain_places(brain: Bool[Tensor, "D H W"], axis: int) -> Int64[Tensor, " n"]:
    """Numbers of the slices (rows, columns) that show brain."""
    others = [other for other in range(3) if other != axis]
    return brain.any(others[1]).any(others[0]).nonzero()[:, 0]


def edge_band(depth: Float[Tensor, "B D H W"], brains: BrainMasks) -> Bool[Tensor, "B D H W"]:
    """The brain's outermost band: depth at most ``EDGE_DEPTH``; never empty where there is a brain."""
    at_surface = torch.where(brains, depth, 2).flatten(1).min(1).values[:, None, None, None]
    return brains & (depth <= at_surface.clamp_min(EDGE_DEPTH))


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


def _of_masks(masks: Masks, labels: Mapping[int, str], band: Band) -> list[Tensor]:
    everywhere = torch.ones_like(masks, dtype=torch.bool)
    return [everywhere, *(masks == value for value in sorted(labels)), label_boundary(masks, band)]


def _stacked(parts: Sequence[Tensor]) -> Regions:
    regions = torch.empty(len(parts[0]), len(parts), *parts[0].shape[1:])
    for number, part in enumerate(parts):
        regions[:, number] = part
    return regions


def _over_window(values: Masks, axis: int, pixels: int, extreme: Callable[..., Tensor]) -> Masks:
    """The largest or smallest value among those up to ``pixels`` before and behind; in bytes, 10 x max_pool2d."""
    out, length = values.clone(), values.shape[axis]
    for shift in range(1, min(pixels, length - 1) + 1):
        before, behind = values.narrow(axis, 0, length - shift), values.narrow(axis, shift, length - shift)
        at_start, at_end = out.narrow(axis, 0, length - shift), out.narrow(axis, shift, length - shift)
        extreme(at_start, behind, out=at_start)
        extreme(at_end, before, out=at_end)
    return out


def _sampling(spacing: Sequence[Spacing] | None, number: int, *, flat: bool) -> list[float]:
    between, *in_plane = spacing[number] if spacing is not None else (None, None, None)
    known = [float(mm) for mm in ([1.0] if flat else [between]) + in_plane if mm is not None and 0 < mm < float("inf")]
    return known if len(known) == 3 else [1.0, 1.0, 1.0]
