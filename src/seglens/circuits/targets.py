"""Targets: what an edge is worth is how much a target rises when the edge is cut.

A target is made for one batch from the logits of the uncut network, and then gives one number a sample for any other
logits: 0 or little where nothing changed, more the more is lost. NaN where it is not defined, such as Dice to a mask
without foreground; such samples are left out and counted.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.segmenters.decision import Decision
from seglens.shapes import Logits, Masks

BAND = 5
"""Pixels by which the predicted lesion is widened: outside, a mean would measure the edges of the skull."""
Loss = Callable[[Logits], Float[Tensor, " B"]]
Truth = Callable[[], Masks]
"""Gives the masks of a batch; only a labelled target asks, for a cohort may have none."""
Target = Callable[[Decision, Logits, Truth], Loss]
"""From a segmenter's decision, uncut logits and masks to the loss of a batch."""


def self_dice(decision: Decision, clean: Logits, truth: Truth) -> Loss:
    """1 - soft Dice to the uncut network's own mask, over a band around it; needs no masks.

    The mean over the classes that the uncut network predicts; NaN where it predicts none.
    """
    predicted = _regions(decision, clean, lambda label: decision.says(clean, label))
    band = _widened(predicted.amax(1, keepdim=True))
    return partial(_soft_dice_loss, decision, predicted, band)


def labelled_dice(decision: Decision, clean: Logits, truth: Truth) -> Loss:
    """1 - soft Dice to the masks, the mean over the classes in them; NaN where a mask has no foreground."""
    masks = truth().to(clean.device)
    wanted = _regions(decision, clean, lambda label: decision.belongs(masks, label))
    return partial(_soft_dice_loss, decision, wanted, torch.ones_like(wanted[:, :1]))


def class_odds(label: int) -> Target:
    """Target of one class: how far its log odds fall where the uncut network predicts it.

    Args:
        label: of the class or region, 1 or more. Samples in which it is not predicted are NaN.
    """
    return partial(_class_odds, label)


def _class_odds(label: int, decision: Decision, clean: Logits, truth: Truth) -> Loss:
    predicted = decision.says(clean, label).float()
    return partial(_odds_lost, decision, label, predicted, decision.log_odds(clean, label))


def _odds_lost(decision: Decision, label: int, predicted: Tensor, clean: Tensor, logits: Logits) -> Float[Tensor, " B"]:
    lost = (clean - decision.log_odds(logits, label)) * predicted
    return lost.flatten(1).sum(1) / predicted.flatten(1).sum(1)


def _regions(decision: Decision, logits: Logits, of: Callable[[int], Tensor]) -> Tensor:
    """``[B k D H W]``, 1 where a sample has a label or region from 1 on."""
    n_labels = logits.shape[1] + decision.regions
    return torch.stack([of(label) for label in range(1, n_labels)], 1).float()


def _widened(lesion: Tensor) -> Tensor:
    side = 2 * BAND + 1
    thin = lesion.shape[2] == 1
    return functional.max_pool3d(lesion, (1 if thin else side, side, side), 1, (0 if thin else BAND, BAND, BAND))


def _soft_dice_loss(decision: Decision, wanted: Tensor, weight: Tensor, logits: Logits) -> Float[Tensor, " B"]:
    logits = logits.float()
    shares = logits.sigmoid() if decision.regions else logits.softmax(1)[:, 1:]
    overlap = (weight * shares * wanted).flatten(2).sum(2)
    size = (weight * (shares + wanted)).flatten(2).sum(2)
    present = wanted.flatten(2).any(2)
    dice = torch.where(present, 2 * overlap / size.clamp_min(1e-12), 0.0).sum(1)
    return 1 - dice / present.sum(1)  # 0 / 0 where nothing is wanted
