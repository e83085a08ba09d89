"""One stack brought onto another's grid, where a data set's reader allows it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.slice_stack import Stack
from seglens.cohorts.volumes import VolumeError

_FIX = "fix its header if they lie in different places, or resample it by other means and look at it"
MAX_LOST_SHARE = 0.1
"""Of a label's volume, which it may lose on its way to another grid."""


def onto_grid(path: Path, stack: Stack, reference: Stack, *, nearest: bool) -> tuple[Stack, str]:
    """The stack's values at the places of the reference's voxels; 0 outside of its field of view.

    Args:
        path: the stack's file, for messages.
        stack: with an affine.
        reference: with an affine.
        nearest: take the nearest voxel (masks) instead of interpolating linearly (images).

    Returns:
        A stack [D H W] on the reference's grid; and what changed, as the end of a sentence: how much of its volume each
        value of a mask keeps, how much of the grid lies outside of an image.

    Raises:
        VolumeError: the two do not overlap, or a mask's value loses all or more than a tenth of its volume on the way.
    """
    from scipy import ndimage

    assert stack.affine is not None
    assert reference.affine is not None
    to_own = np.linalg.inv(stack.affine) @ reference.affine

    def moved(values: NDArray[np.float32], order: int) -> NDArray[np.float32]:
        # grid-constant: a place that rounding puts a hair outside of the first voxel is not yet outside
        return ndimage.affine_transform(
            values, to_own[:3, :3], to_own[:3, 3], reference.values.shape, order=order, mode="grid-constant"
        )

    values = moved(stack.values, 0 if nearest else 1)
    placed = replace(stack, values=values, affine=reference.affine, spacing_mm=reference.spacing_mm)
    if not nearest:
        outside = 1 - float(moved(np.ones_like(stack.values), 0).mean())
        if not values.any():
            raise VolumeError(path, "lost_in_resampling", "shows nothing on the other grid", _FIX)
        return placed, f"; {outside:.2%} of that grid lie outside of it and are 0" if outside else ""
    volume = abs(np.linalg.det(reference.affine[:3, :3]) / np.linalg.det(stack.affine[:3, :3]))
    kept = {
        value: float(np.count_nonzero(values == value) * volume / count)
        for value, count in zip(*np.unique(stack.values, return_counts=True), strict=True)
        if value
    }
    text = ", ".join(f"{share:.1%} of the value {value:g}" for value, share in kept.items())
    if lost := [value for value, share in kept.items() if share < 1 - MAX_LOST_SHARE]:
        listed = ", ".join(f"{value:g}" for value in lost)
        what = f"keeps {text} on the other grid, by volume: over {MAX_LOST_SHARE:.0%} of {listed} are lost"
        raise VolumeError(path, "lost_in_resampling", what, _FIX)
    return placed, f"; it keeps {text}, by volume" if text else ""
