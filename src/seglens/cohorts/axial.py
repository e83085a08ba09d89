"""The turns between canonical volumes [x y z] (RAS+), stacks of axial slices [D H W] and the order of a file."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
_CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])


def to_axial(volume: NDArray[Scalar]) -> NDArray[Scalar]:
    """Turn a canonical volume [x y z] into slices [D H W] from inferior to superior, as a radiologist sees them.

    Rows run from anterior to posterior, columns from the patient's right to left.
    """
    return np.ascontiguousarray(volume[::-1, ::-1, :].transpose(2, 1, 0))


def from_axial(slices: NDArray[Scalar]) -> NDArray[Scalar]:
    """Turn slices [D H W] back into a canonical volume [x y z]: the inverse of `to_axial`, a view."""
    return slices.transpose(2, 1, 0)[::-1, ::-1, :]


def to_file_order(volume: NDArray[Scalar], affine: NDArray[np.float64]) -> NDArray[Scalar]:
    """Turn a canonical volume [x y z] into the order in which a file of that affine stores its voxels, a view."""
    import nibabel

    own = nibabel.io_orientation(affine)
    return nibabel.apply_orientation(volume, nibabel.orientations.ornt_transform(_CANONICAL, own))


def from_file_order(volume: NDArray[Scalar], affine: NDArray[np.float64]) -> NDArray[Scalar]:
    """Turn a file's voxels into a canonical volume [x y z]: the inverse of `to_file_order`, a view."""
    import nibabel

    return nibabel.apply_orientation(volume, nibabel.io_orientation(affine))


def axial_affine(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Affine [4 4] of slices: from slice, row and column to mm.

    Args:
        affine: of the canonical volume.
        shape: D, H, W.
    """
    return affine @ _turn(shape)


def canonical_affine(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Affine [4 4] of the canonical volume of slices: the inverse of `axial_affine`.

    Args:
        affine: of the slices.
        shape: D, H, W.
    """
    return affine @ np.linalg.inv(_turn(shape)).round()


def _turn(shape: tuple[int, ...]) -> NDArray[Any]:
    """From slice, row, column to x, y, z."""
    _, height, width = shape
    return np.array([[0, 0, -1, width - 1], [0, -1, 0, height - 1], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)
