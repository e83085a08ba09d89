"""Distances between the surfaces of two masks, and what is scored by them: HD95 and surface Dice."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int

Distances = tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " t"]]
"""From each surface point of the prediction to the truth's surface, and the other way round, in mm."""


def surface_distances(
    predicted: Bool[np.ndarray, "*space"], truth: Bool[np.ndarray, "*space"], spacing_mm: Sequence[float]
) -> Distances | None:
    """Distances between the surfaces of two masks, both ways.

    The surface of a mask is its pixels that touch (by an edge, in a volume by a face) a pixel outside it or the border
    of the array. Distances come from a tree of the other surface's pixels: a distance transform would give every
    pixel's.

    Args:
        predicted: one class of a prediction: a slice or a volume.
        truth: the same class of the mask.
        spacing_mm: distance between pixels along each axis.

    Returns:
        None where either mask is empty: such a slice is counted as missed or as a false alarm instead.
    """
    from scipy.spatial import cKDTree

    if not predicted.any() or not truth.any():
        return None
    union = predicted | truth
    box = tuple(_extent(union, axis) for axis in range(union.ndim))
    surfaces = [_surface(mask[box]) * np.array(spacing_mm) for mask in (predicted, truth)]
    to_predicted, to_truth = (cKDTree(surface) for surface in surfaces)
    return to_truth.query(surfaces[0])[0], to_predicted.query(surfaces[1])[0]


def hd95(distances: Distances) -> float:
    """HD95: the larger of the two directed 95th percentiles of surface distances (as in MONAI), in mm."""
    return float(max(np.percentile(directed, 95) for directed in distances))


def surface_dice(distances: Distances, tolerance_mm: float = 1.0) -> float:
    """Surface Dice (NSD): the share of both surfaces' points that lie within a tolerance of the other surface.

    Points are pixels of the surface, counted alike (as in MONAI without subvoxels; Nikolov et al. 2021, equation 1).
    """
    near = sum(int(np.count_nonzero(directed <= tolerance_mm)) for directed in distances)
    return near / sum(len(directed) for directed in distances)


def _extent(mask: Bool[np.ndarray, "*space"], axis: int) -> slice:
    """From the first to the last place of an axis at which there is anything."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    found = np.flatnonzero(mask.any(others))
    return slice(int(found[0]), int(found[-1]) + 1)


def _surface(mask: Bool[np.ndarray, "*space"]) -> Int[np.ndarray, "n axes"]:
    """Indices of the pixels of the surface."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            shifted = [slice(1, -1)] * mask.ndim
            shifted[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(shifted)]
    return np.argwhere(mask & ~inside)
