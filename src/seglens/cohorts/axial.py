"""The turn between canonical volumes [x y z] (RAS+) and stacks of axial slices [D H W], and between their affines."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def to_axial(volume: NDArray[Scalar]) -> NDArray[Scalar]:
    """Turn a canonical volume [x y z] into slices [D H W] from inferior to superior, as a radiologist sees them.

    Rows run from anterior to posterior, columns from the patient's right to left.
    """
    return np.ascontiguousarray(volume[::-1, ::-1, :].transpose(2, 1, 0))


def from_axial(slices: NDArray[Scalar]) -> NDArray[Scalar]:
    """Turn slices [D H W] back into a canonical volume [x y z]: the inverse of `to_axial`, a view."""
    return slices.transpose(2, 1, 0)[::-1, ::-1, :]


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
