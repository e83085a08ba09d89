"""Dice + cross-entropy."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.shapes import Logits, Masks


def dice_cross_entropy(logits: Logits, masks: Masks) -> Float[Tensor, ""]:
    """Cross-entropy plus 1 - soft Dice, the loss of nnU-Net (arXiv 1904.08128).

    Soft Dice is pooled over the batch and averaged over the foreground classes in the batch's masks: a class that is
    absent from a batch has no Dice and pulls at nothing but the cross-entropy.

    Args:
        logits: ``[B K H W]``, any float type; computed in float32.
        masks: ``[B H W]``, values 0..K-1.
    """
    log_shares = functional.log_softmax(logits.float(), dim=1)
    target = masks.long()
    loss = functional.nll_loss(log_shares, target)
    n_classes = logits.shape[1]
    truth = torch.bincount(target.flatten(), minlength=n_classes)[1:]
    present = truth > 0
    if not bool(present.any()):
        return loss
    shares = log_shares.exp()[:, 1:]
    labels = torch.arange(1, n_classes, device=masks.device).view(1, -1, 1, 1)
    # a product with a mask instead of an index: same sums, and a gradient without scatter
    overlap = (shares * (target[:, None] == labels)).sum((0, 2, 3))
    dice = 2 * overlap / (shares.sum((0, 2, 3)) + truth)
    return loss + 1 - dice[present].mean()
