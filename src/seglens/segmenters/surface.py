"""The 95th percentile Hausdorff distance between two masks, in mm."""

import numpy as np
from jaxtyping import Bool
from torch import Tensor


def hd95(predicted: Bool[Tensor, "H W"], truth: Bool[Tensor, "H W"], spacing_mm: tuple[float, float]) -> float | None:
    """HD95: the larger of the two directed 95th percentiles of surface distances (as in MONAI).

    The surface of a mask is its pixels that touch (by an edge) a pixel outside it or the border of the slice.

    Args:
        predicted: one class of a prediction.
        truth: the same class of the mask.
        spacing_mm: distance between rows, between columns.

    Returns:
        Millimetres; None where either mask is empty: such a slice is counted as missed or as a false alarm instead.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    union = (predicted | truth).numpy()
    if not bool(predicted.any()) or not bool(truth.any()):
        return None
    # everything that matters lies in the box around both masks
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    masks = [predicted.numpy()[box], truth.numpy()[box]]
    surfaces = [mask & ~binary_erosion(mask) for mask in masks]
    to_predicted, to_truth = (distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces)
    return float(max(np.percentile(to_truth[surfaces[0]], 95), np.percentile(to_predicted[surfaces[1]], 95)))
