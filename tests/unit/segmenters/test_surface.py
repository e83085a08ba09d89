import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from seglens.segmenters.surface import hd95, surface_dice, surface_distances


def surface(mask):
    """Pixels with a neighbour (by an edge or a face) outside the mask or the array."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (1, -1):
                other = place.copy()
                other[axis] += step
                if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                    found.append(tuple(place))
    return sorted(set(found))


def slow_distances(predicted, truth, spacing):
    points = [np.array(surface(mask)) * np.array(spacing) for mask in (predicted, truth)]
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return pairs.min(1), pairs.min(0)


def two_masks(seed, shape):
    generator = np.random.default_rng(seed)
    return tuple(generator.random(shape) < share for share in (0.2, 0.05 + 0.1 * seed))


@pytest.mark.parametrize("shape", [(14, 17), (4, 7, 6)])
@pytest.mark.parametrize("seed", range(8))
def test_equals_all_pairwise_distances_and_doubles_with_the_spacing(seed, shape):
    predicted, truth = two_masks(seed, shape)
    spacing = (2.5, 0.7, 1.9)[-len(shape) :]
    found = surface_distances(predicted, truth, spacing)
    slow = slow_distances(predicted, truth, spacing)
    for own, other in zip(found, slow, strict=True):
        assert np.sort(own) == pytest.approx(np.sort(other))
    assert hd95(found) == pytest.approx(max(np.percentile(own, 95) for own in slow))
    near = sum((own <= 1.0).sum() for own in slow)
    assert surface_dice(found) == pytest.approx(near / sum(map(len, slow)))
    assert hd95(surface_distances(predicted, truth, [2 * side for side in spacing])) == pytest.approx(2 * hd95(found))
    assert hd95(surface_distances(truth, predicted, spacing)) == pytest.approx(hd95(found))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI's own call
@pytest.mark.parametrize("seed", range(4))
def test_equals_monai_in_volumes(seed):
    generator = np.random.default_rng(seed)
    centre, shift = generator.uniform(6, 9, 3), generator.uniform(-2, 2, 3)
    places = np.stack(np.meshgrid(*map(np.arange, (14, 17, 15)), indexing="ij"), axis=-1)
    truth, predicted = (
        np.linalg.norm(places - at, axis=-1) < radius for at, radius in ((centre, 4), (centre + shift, 5))
    )
    spacing = (3.0, 0.9, 1.1)
    found = surface_distances(predicted, truth, spacing)
    pair = [torch.from_numpy(np.stack([~mask, mask])[None]).float() for mask in (predicted, truth)]
    expected = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)
    assert hd95(found) == pytest.approx(float(expected), abs=1e-6)
    expected = compute_surface_dice(*pair, [1.0], spacing=spacing)
    assert surface_dice(found, 1.0) == pytest.approx(float(expected), abs=1e-6)


def test_same_masks_are_zero_apart_and_an_empty_one_has_no_distance():
    mask = np.zeros((8, 8), bool)
    assert surface_distances(mask, mask, (1.0, 1.0)) is None
    mask[3, 3] = True
    same = surface_distances(mask, mask, (1.0, 1.0))
    assert (hd95(same), surface_dice(same)) == (0.0, 1.0)
    assert surface_distances(mask, np.zeros_like(mask), (1.0, 1.0)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (3, 3), (4, 1), (9, 9), (2, 3, 4)])
def test_full_and_single_pixel_masks_of_every_shape(shape):
    full, corner = np.ones(shape, bool), np.zeros(shape, bool)
    corner[(0,) * len(shape)] = True
    spacing = (1.0, 2.0, 3.0)[: len(shape)]
    expected = max(np.percentile(own, 95) for own in slow_distances(full, corner, spacing))
    assert hd95(surface_distances(full, corner, spacing)) == pytest.approx(expected)
    assert hd95(surface_distances(corner, full, spacing)) == pytest.approx(expected)
