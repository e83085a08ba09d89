import numpy as np
import pytest
from scipy import ndimage

from seglens.cohorts.spline_resampling import coarse_axis, resample, resampled_shape
from seglens.foreign.plans import Interpolation


def slow_linear(volume, shape):
    """Linear interpolation by loops: centres keep their places, edges are extended."""
    found = np.zeros(shape)
    for place in np.ndindex(*shape):
        centre = [(i + 0.5) * n / m - 0.5 for i, n, m in zip(place, volume.shape, shape, strict=True)]
        for corner in np.ndindex(2, 2, 2):
            weight, index = 1.0, []
            for at, step, n in zip(centre, corner, volume.shape, strict=True):
                low = int(np.floor(at))
                weight *= (at - low) if step else (1 - (at - low))
                index.append(min(max(low + step, 0), n - 1))
            found[place] += weight * volume[tuple(index)]
    return found


def noise(*shape, kind=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(kind)


def test_shapes_are_rounded_as_python_rounds():
    assert resampled_shape((10, 11, 7), (1.0, 1.5, 2.0), (2.0, 1.0, 2.0)) == (5, 16, 7)
    assert resampled_shape((5, 5, 5), (1.0, 1.0, 3.0), (2.0, 10.0, 1.0)) == (2, 0, 15)


@pytest.mark.parametrize(
    ("spacing", "wanted", "separate", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None, None),
        ((3, 1, 1), (1, 1, 1), None, None),
        ((3.1, 1, 1), (1, 1, 1), None, 0),
        ((1, 1, 1), (1, 4, 1), None, 1),
        ((4, 1, 4), (1, 1, 1), None, None),
        ((1, 1, 1), (1, 1, 1), True, None),
        ((1, 1.5, 1), (1, 1, 1), True, 1),
        ((9, 1, 1), (1, 1, 1), False, None),
    ],
)
def test_the_coarse_axis(spacing, wanted, separate, axis):
    spacings = tuple(map(float, spacing)), tuple(map(float, wanted))
    assert coarse_axis(*spacings, Interpolation(3, 0, separate)) == axis


def test_linear_is_that_of_loops():
    volume = noise(4, 5, 6)
    found = resample(volume, (7, 3, 6), (1.0, 1.0, 1.0), (0.6, 1.6, 1.0), Interpolation(1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_linear(volume, (7, 3, 6)), atol=1e-6)


def test_cubic_stays_in_the_range_of_the_image_and_passes_a_constant():
    volume = np.zeros((6, 6, 6), np.float32)
    volume[2:4] = 1
    found = resample(volume, (11, 9, 6), (1.0, 1.0, 1.0), (0.5, 0.7, 1.0), Interpolation(3))
    assert found.min() == 0 and found.max() == 1
    assert (resample(volume * 0 + 3, (11, 9, 6), (1.0,) * 3, (0.5, 0.7, 1.0), Interpolation(3)) == 3).all()


def test_the_same_shape_is_the_same_array():
    volume = noise(3, 4, 5)
    assert resample(volume, (3, 4, 5), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), Interpolation(3)) is volume


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order_z", [0, 1])
def test_slices_of_a_coarse_axis_are_resampled_each_for_itself(axis, order_z):
    """Against whole arrays of coordinates in three dimensions, as nnU-Net's own function is written."""
    shape, wanted = [6, 7, 8], [9, 5, 11]
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    volume = noise(*shape, kind=np.float64)
    found = resample(volume, wanted, spacing, (1.0, 1.0, 1.0), Interpolation(3, order_z))
    between = list(wanted)
    between[axis] = shape[axis]
    planes = np.zeros(between)
    for number in range(shape[axis]):
        plane = np.take(volume, number, axis)
        own = [n for place, n in enumerate(wanted) if place != axis]
        factors = [new / old for new, old in zip(own, plane.shape, strict=True)]
        zoomed = ndimage.zoom(plane, factors, order=3, mode="nearest", grid_mode=True)
        np.moveaxis(planes, axis, 0)[number] = np.clip(zoomed, plane.min(), plane.max())
    places = [
        old / new * (grid + 0.5) - 0.5
        for old, new, grid in zip(planes.shape, wanted, np.mgrid[tuple(slice(n) for n in wanted)], strict=True)
    ]
    np.testing.assert_array_equal(found, ndimage.map_coordinates(planes, places, order=order_z, mode="nearest"))
