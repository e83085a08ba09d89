import numpy as np
import pytest
import torch

from seglens.segmenters.surface import hd95


def surface(mask):
    """Pixels with a neighbour (by an edge) outside the mask or the slice."""
    height, width = mask.shape
    return [
        (row, column)
        for row, column in mask.nonzero().tolist()
        if any(
            not (0 <= row + down < height and 0 <= column + right < width) or not mask[row + down, column + right]
            for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1))
        )
    ]


def slow_hd95(predicted, truth, spacing):
    points = [np.array(surface(mask)) * np.array(spacing) for mask in (predicted, truth)]
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95))


@pytest.mark.parametrize("seed", range(8))
def test_equals_all_pairwise_distances_and_doubles_with_the_spacing(seed):
    generator = torch.Generator().manual_seed(seed)
    predicted, truth = (torch.rand(14, 17, generator=generator) < share for share in (0.2, 0.05 + 0.1 * seed))
    value = hd95(predicted, truth, (0.7, 1.9))
    assert value == pytest.approx(slow_hd95(predicted, truth, (0.7, 1.9)))
    assert hd95(predicted, truth, (1.4, 3.8)) == pytest.approx(2 * value)
    assert hd95(truth, predicted, (0.7, 1.9)) == pytest.approx(value)


def test_same_masks_are_zero_apart_and_an_empty_one_has_no_distance():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    assert hd95(mask, mask, (1.0, 1.0)) is None
    mask[3, 3] = True
    assert hd95(mask, mask, (1.0, 1.0)) == 0.0
    assert hd95(mask, torch.zeros_like(mask), (1.0, 1.0)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (3, 3), (4, 1), (9, 9)])
def test_full_and_single_pixel_masks_of_every_shape(shape):
    full, corner = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    corner[0, 0] = True
    expected = slow_hd95(full, corner, (1.0, 2.0))
    assert hd95(full, corner, (1.0, 2.0)) == pytest.approx(expected)
    assert hd95(corner, full, (1.0, 2.0)) == pytest.approx(expected)
