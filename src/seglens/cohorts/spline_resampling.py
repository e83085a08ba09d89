"""Arrays brought to another grid by splines, as nnU-Net does it: centres keep their places, edges are extended."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from seglens.foreign.plans import ANISOTROPIC, Interpolation


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along each axis of the grid of another spacing, rounded as Python rounds."""
    first, second, third = (round(old / new * n) for n, old, new in zip(shape, spacing, wanted, strict=True))
    return first, second, third


def coarse_axis(spacing: Sequence[float], wanted: Sequence[float], interpolation: Interpolation) -> int | None:
    """The axis whose slices are resampled each for itself; None where all axes are resampled together.

    Args:
        spacing: of the array.
        wanted: of the other grid.
        interpolation: may say it, instead of the spacings.
    """
    if interpolation.separate_z is not None:
        coarse = tuple(spacing) if interpolation.separate_z else None
    else:
        coarse = next((own for own in (tuple(spacing), tuple(wanted)) if max(own) / min(own) > ANISOTROPIC), None)
    if coarse is None:
        return None
    axes = [axis for axis, size in enumerate(coarse) if max(coarse) / size == 1]
    return axes[0] if len(axes) == 1 else None  # two or three coarse axes: together


def resample(
    volume: Float[np.ndarray, "D H W"],
    shape: Sequence[int],
    spacing: Sequence[float],
    wanted: Sequence[float],
    interpolation: Interpolation,
) -> Float[np.ndarray, "d h w"]:
    """Bring a volume to another grid.

    Args:
        volume: floats of any precision.
        shape: of the other grid.
        spacing: of the volume, mm.
        wanted: of the other grid, mm.
        interpolation: orders of the splines.

    Returns:
        Values of the volume's type, computed as float64; the volume itself where it has the shape already.
    """
    shape = tuple(int(n) for n in shape)
    if volume.shape == shape:
        return volume
    exact = volume.astype(np.float64)
    axis = coarse_axis(spacing, wanted, interpolation)
    if axis is None:
        return _zoomed(exact, shape, interpolation.order).astype(volume.dtype)
    planes = np.moveaxis(exact, axis, 0)
    plane_shape = tuple(n for place, n in enumerate(shape) if place != axis)
    flat = np.stack([_zoomed(plane, plane_shape, interpolation.order) for plane in planes])
    along = _along(flat, shape[axis], interpolation.order_z)
    return np.ascontiguousarray(np.moveaxis(along, 0, axis)).astype(volume.dtype)


def _zoomed(values: NDArray[np.float64], shape: tuple[int, ...], order: int) -> NDArray[np.float64]:
    """By splines, within the range of the values; also where the shape stays, for nnU-Net does."""
    from scipy import ndimage

    factors = [1 / (old / new) for new, old in zip(shape, values.shape, strict=True)]
    zoomed = ndimage.zoom(values, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(zoomed, values.min(), values.max(), out=zoomed)


def _along(planes: NDArray[np.float64], n: int, order: int) -> NDArray[np.float64]:
    """Along the first axis alone, by the nearest plane or a spline; as they are where there are ``n``."""
    from scipy import ndimage

    if len(planes) == n:
        return planes
    places = len(planes) / n * (np.arange(n) + 0.5) - 0.5
    if order == 0:
        return planes[np.clip(np.floor(places + 0.5).astype(int), 0, len(planes) - 1)]
    grid = np.meshgrid(places, *(np.arange(size, dtype=float) for size in planes.shape[1:]), indexing="ij")
    return ndimage.map_coordinates(planes, np.stack(grid), order=order, mode="nearest")
