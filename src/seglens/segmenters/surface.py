"""The 95th percentile Hausdorff distance between two masks, in mm."""

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor


def hd95(predicted: Bool[Tensor, "H W"], truth: Bool[Tensor, "H W"], spacing_mm: tuple[float, float]) -> float | None:
    """HD95: the larger of the two directed 95th percentiles of surface distances (as in MONAI).

    The surface of a mask is its pixels that touch (by an edge) a pixel outside it or the border of the slice. Distances
    come from a tree of the other surface's pixels: a distance transform would give every pixel's.

    Args:
        predicted: one class of a prediction.
        truth: the same class of the mask.
        spacing_mm: distance between rows, between columns.

    Returns:
        Millimetres; None where either mask is empty: such a slice is counted as missed or as a false alarm instead.
    """
    from scipy.spatial import cKDTree

    masks = [predicted.numpy(), truth.numpy()]
    if not all(mask.any() for mask in masks):
        return None
    union = masks[0] | masks[1]
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    surfaces = [_surface(mask[box]) * np.array(spacing_mm) for mask in masks]
    to_predicted, to_truth = (cKDTree(surface) for surface in surfaces)
    distances = to_truth.query(surfaces[0])[0], to_predicted.query(surfaces[1])[0]
    return float(max(np.percentile(directed, 95) for directed in distances))


def _surface(mask: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "n 2"]:
    """Row and column of the pixels of the surface."""
    inside = np.zeros_like(mask)
    inside[1:-1, 1:-1] = mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
    return np.argwhere(mask & ~inside)
