"""One stack brought onto another's grid, where a data set's reader allows it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from seglens.cohorts.slice_stack import Stack
from seglens.cohorts.volumes import VolumeError


def onto_grid(path: Path, stack: Stack, reference: Stack, *, nearest: bool) -> Stack:
    """The stack's values at the places of the reference's voxels; 0 outside of its field of view.

    Args:
        path: the stack's file, for messages.
        stack: with an affine.
        reference: with an affine.
        nearest: take the nearest voxel (masks) instead of interpolating linearly (images).

    Returns:
        A stack [D H W] on the reference's grid.

    Raises:
        VolumeError: the two do not overlap, or a mask's value is lost on the way.
    """
    from scipy import ndimage

    assert stack.affine is not None
    assert reference.affine is not None
    to_own = np.linalg.inv(stack.affine) @ reference.affine
    # grid-constant: a place that rounding puts a hair outside of the first voxel is not yet outside
    values = ndimage.affine_transform(
        stack.values,
        to_own[:3, :3],
        to_own[:3, 3],
        reference.values.shape,
        order=0 if nearest else 1,
        mode="grid-constant",
    )
    before, after = (set(np.unique(part).tolist()) for part in (stack.values, values)) if nearest else (set(), set())
    if before - after or not (nearest or values.any()):
        what = f"loses the values {sorted(before - after)}" if nearest else "shows nothing"
        raise VolumeError(
            path, "lost_in_resampling", f"{what} on the other grid", "fix its header: they lie in different places"
        )
    return replace(stack, values=values, affine=reference.affine, spacing_mm=reference.spacing_mm)
