"""Dice + cross-entropy."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.runtime.distributed import all_reduce
from seglens.shapes import Logits, Masks


def dice_cross_entropy(logits: Logits, masks: Masks) -> Float[Tensor, ""]:
    """Cross-entropy plus 1 - soft Dice, the loss of nnU-Net (arXiv 1904.08128).

    Soft Dice is pooled over the batch and averaged over the foreground classes in the batch's masks: a class that is
    absent from a batch has no Dice and pulls at nothing but the cross-entropy.

    Several processes each give their share of the batch and get the loss of the whole of it. Each then goes back from
    its equal part of that loss (see `all_reduce`), and the sum of their gradients is the gradient of the loss.

    Args:
        logits: ``[B K D H W]``, any float type; computed in float32.
        masks: ``[B D H W]``, values 0..K-1.
    """
    log_shares = functional.log_softmax(logits.float(), dim=1)
    target = masks.long()
    n_classes = logits.shape[1]
    shares = log_shares.exp()[:, 1:]
    labels = torch.arange(1, n_classes, device=masks.device).view(1, -1, 1, 1, 1)
    # a product with a mask instead of an index: same sums, and a gradient without scatter
    overlap = (shares * (target[:, None] == labels)).sum((0, 2, 3, 4))
    surprise = functional.nll_loss(log_shares, target, reduction="sum").view(1)
    truth = torch.bincount(target.flatten(), minlength=n_classes).to(surprise)
    own = torch.cat([surprise, overlap, shares.sum((0, 2, 3, 4)), truth])
    surprise, overlap, predicted, truth = all_reduce(own).split([1, n_classes - 1, n_classes - 1, n_classes])
    loss = surprise[0] / truth.sum()
    present = truth[1:] > 0
    if not bool(present.any()):
        return loss
    dice = 2 * overlap / (predicted + truth[1:])
    return loss + 1 - dice[present].mean()
