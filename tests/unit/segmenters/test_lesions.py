import numpy as np
import pytest
from scipy import ndimage

from seglens.segmenters.lesions import LesionScores, lesion_scores

SHAPE = (12, 40, 40)


def blob(*boxes):
    mask = np.zeros(SHAPE, bool)
    for low, high in boxes:
        mask[tuple(map(slice, low, high))] = True
    return mask


def slow_twin(predicted, truth, voxel_mm3, dilation, min_mm3):
    """The challenge's definition word by word, each step on the whole volume."""
    all_26, grow = np.ones((3, 3, 3), int), ndimage.generate_binary_structure(3, 2)
    parts, n_parts = ndimage.label(predicted, all_26)
    wide, n_wide = ndimage.label(ndimage.binary_dilation(truth, grow, iterations=dilation), all_26)
    scores, near_any = [], set()
    for number in range(1, n_wide + 1):
        lesion = truth & (wide == number)
        nearby = ndimage.binary_dilation(lesion, grow, iterations=dilation)
        own = {part for part in range(1, n_parts + 1) if (nearby & (parts == part)).any()}
        near_any |= own
        matched = np.isin(parts, list(own))
        if lesion.sum() * voxel_mm3 > min_mm3:
            scores.append(2 * (matched & lesion).sum() / (matched.sum() + lesion.sum()))
    n_false = n_parts - len(near_any)
    return sum(scores) / (len(scores) + n_false) if len(scores) + n_false else 1.0


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_challenge_definition_step_by_step(seed):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=(2, *SHAPE)), (0, 1, 2, 2))
    predicted, truth = noise[0] + 0.5 * noise[1] > 0.12, noise[1] > 0.1 + 0.01 * seed
    found = lesion_scores(predicted, truth, 2.0, dilation=1 + seed % 3, min_mm3=5.0 * seed)
    assert found.dice == pytest.approx(slow_twin(predicted, truth, 2.0, 1 + seed % 3, 5.0 * seed), abs=1e-12)


def test_a_large_lesion_does_not_hide_a_small_one_that_is_missed():
    large, small = ((2, 2, 2), (8, 20, 20)), ((3, 30, 30), (7, 36, 36))
    truth = blob(large, small)
    found = lesion_scores(blob(large), truth, 1.0)
    assert found == LesionScores(dice=0.5, n_lesions=2, n_missed=1, n_false=0)
    voxel_wise = 2 * blob(large).sum() / (blob(large).sum() + truth.sum())
    assert voxel_wise > 0.95


def test_each_false_part_counts_as_much_as_a_lesion():
    lesion, far = ((2, 2, 2), (8, 20, 20)), ((3, 30, 30), (4, 31, 31))
    assert lesion_scores(blob(lesion, far), blob(lesion), 1.0) == LesionScores(0.5, 1, 0, 1)


def test_pieces_near_each_other_are_one_lesion():
    pieces = ((2, 2, 2), (8, 10, 10)), ((2, 14, 2), (8, 22, 10))
    assert lesion_scores(blob(*pieces), blob(*pieces), 1.0, dilation=3) == LesionScores(1.0, 1, 0, 0)
    assert lesion_scores(blob(*pieces), blob(*pieces), 1.0, dilation=1) == LesionScores(1.0, 2, 0, 0)


def test_what_is_smaller_than_counts_is_neither_missed_nor_false():
    small = ((3, 30, 30), (6, 33, 33))
    nothing = blob()
    assert lesion_scores(nothing, blob(small), 1.0) == LesionScores(1.0, 0, 0, 0)
    assert lesion_scores(blob(small), blob(small), 1.0) == LesionScores(1.0, 0, 0, 0)
    assert lesion_scores(nothing, blob(small), 2.0) == LesionScores(0.0, 1, 1, 0)
    assert lesion_scores(nothing, nothing, 1.0) == LesionScores(1.0, 0, 0, 0)
