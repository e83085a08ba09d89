"""Targets against twins in loops, and where they are not defined."""

import math

import pytest
import torch

from seglens.circuits.targets import BAND, class_odds, labelled_dice, self_dice
from seglens.segmenters.decision import CLASSES, Decision

generator = torch.Generator().manual_seed(3)
CLEAN, OTHER = (
    torch.randn(2, 3, 1, 20, 20, generator=generator) - torch.tensor([-2.0, 0, 0])[:, None, None, None]
    for _ in range(2)
)
MASKS = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
MASKS[0, :, 3:9, 4:12] = 2


def truth():
    return MASKS


def soft_dice(shares, wanted, where):
    overlap = sum(float(p) for p, y, w in zip(shares, wanted, where, strict=True) if y and w)
    size = sum(float(p) + float(y) for p, y, w in zip(shares, wanted, where, strict=True) if w)
    return 2 * overlap / size


def test_self_dice_is_soft_dice_to_the_uncut_mask_in_a_band():
    predicted = CLEAN.argmax(1)
    found = self_dice(CLASSES, CLEAN, truth)(OTHER)
    for sample in range(2):
        lesion = predicted[sample, 0].nonzero().tolist()
        band = [
            any(abs(row - y) <= BAND and abs(column - x) <= BAND for y, x in lesion)
            for row in range(20)
            for column in range(20)
        ]
        shares = OTHER[sample].softmax(0).flatten(1)
        own = [
            soft_dice(shares[label], (predicted[sample] == label).flatten(), band)
            for label in (1, 2)
            if (predicted[sample] == label).any()
        ]
        assert float(found[sample]) == pytest.approx(1 - sum(own) / len(own), rel=1e-4)


def test_it_is_least_where_nothing_changed_and_has_a_gradient_there():
    sharp = CLEAN * 50
    loss = self_dice(CLASSES, sharp, truth)
    assert float(loss(sharp).max()) < 0.05 < float(loss(OTHER).min())
    clean = CLEAN.clone().requires_grad_()
    self_dice(CLASSES, CLEAN, truth)(clean).sum().backward()
    assert clean.grad.abs().max() > 1e-4


def test_labelled_dice_is_to_the_masks_and_nan_without_foreground():
    found = labelled_dice(CLASSES, CLEAN, truth)(OTHER)
    shares = OTHER[0].softmax(0)[2].flatten()
    wanted = (MASKS[0] == 2).flatten()
    assert float(found[0]) == pytest.approx(1 - soft_dice(shares, wanted, [True] * 400), rel=1e-4)
    assert math.isnan(found[1])


def test_odds_are_lost_where_a_class_was_predicted():
    found = class_odds(1)(CLASSES, CLEAN, truth)(OTHER)
    where = CLEAN[0].argmax(0) == 1
    odds = [logits[0, 1] - torch.logsumexp(logits[0, [0, 2]], 0) for logits in (CLEAN, OTHER)]
    assert float(found[0]) == pytest.approx(float((odds[0] - odds[1])[where].mean()), rel=1e-4)
    assert torch.equal(class_odds(1)(CLASSES, CLEAN, truth)(CLEAN), torch.zeros(2))


def test_nothing_predicted_is_not_defined():
    background = torch.zeros(1, 3, 1, 8, 8)
    background[:, 0] = 5
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert all(
        math.isnan(target(CLASSES, background, lambda: empty)(background)) for target in (self_dice, class_odds(2))
    )


def test_regions_are_by_their_own_odds():
    regions = Decision(regions=True)
    clean = torch.full((1, 2, 1, 8, 8), -9.0)
    clean[..., 2:6, 2:6] = 9.0  # both regions, on each other
    loss = self_dice(regions, clean, truth)
    without = clean.clone()
    without[:, 1] = -9.0
    assert float(loss(clean)) == pytest.approx(0, abs=1e-3)
    assert float(loss(without)) == pytest.approx(0.5, abs=1e-3)
