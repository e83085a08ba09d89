from itertools import product

import pytest
import torch

from seglens.segmenters.loss import dice_cross_entropy


def slow(logits, masks):
    shares = logits.softmax(1)
    cross_entropy, n = 0.0, 0
    overlap, predicted, truth = [0.0] * 3, [0.0] * 3, [0] * 3
    for b in range(len(masks)):
        for place in product(*map(range, masks.shape[1:])):
            here = shares[b][(slice(None), *place)]
            label = int(masks[b][place])
            cross_entropy -= float(here[label].log())
            n += 1
            truth[label] += 1
            overlap[label] += float(here[label])
            for other in range(3):
                predicted[other] += float(here[other])
    dice = [2 * overlap[label] / (predicted[label] + truth[label]) for label in (1, 2) if truth[label]]
    return cross_entropy / n + (1 - sum(dice) / len(dice) if dice else 0.0)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("n_present", [1, 2, 3])
def test_equals_loops(n_present, depth):
    generator = torch.Generator().manual_seed(n_present)
    logits = torch.randn(2, 3, depth, 5, 4, generator=generator)
    masks = torch.randint(0, n_present, (2, depth, 5, 4), generator=generator, dtype=torch.uint8)
    assert float(dice_cross_entropy(logits, masks)) == pytest.approx(slow(logits, masks), rel=1e-5)


def test_is_zero_for_certain_and_right_logits_and_falls_along_its_gradient():
    masks = torch.tensor([[[[0, 1], [2, 1]]]], dtype=torch.uint8)
    certain = 50.0 * torch.nn.functional.one_hot(masks.long(), 3).movedim(-1, 1).float()
    assert float(dice_cross_entropy(certain, masks)) == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(1, 3, 1, 2, 2, requires_grad=True)
    before = dice_cross_entropy(logits, masks)
    before.backward()
    assert dice_cross_entropy((logits - logits.grad).detach(), masks) < before


def test_half_precision_logits_are_computed_in_float32():
    logits, masks = torch.randn(1, 3, 1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert dice_cross_entropy(logits.bfloat16(), masks).dtype == torch.float32
