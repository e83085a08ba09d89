"""The loss of a batch and its gradient, of the whole batch at once or of one half after the other."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seglens.runtime.oom import Halving
from seglens.segmenters.loss import dice_cross_entropy
from seglens.segmenters.segmenter import resized
from seglens.shapes import Images, Masks, extent_of

Forward = Callable[[Images], Tensor]
"""From images to a network's own logits ``[B K d h w]``."""


class LossGradient:
    """Puts the gradient of the loss of a batch into a network's parameters.

    Where the device has no memory for a batch, it goes through the network in two halves, twice: first for the logits,
    from which the loss of the whole batch follows (Dice is pooled over it), then for the gradients. What comes out is
    that of the whole batch but for rounding, except that dropout is drawn for each half, and batch norms see a half
    at a time.

    Args:
        network: in training mode.
        forward: runs it.
        n_processes: that share every batch. Of several, each gets its part of the gradient, and none halves its share:
            the others would wait for it in the middle of a pass.
    """

    def __init__(self, network: nn.Module, forward: Forward, n_processes: int):
        self._network = network
        self._forward = forward
        self._n_processes = n_processes
        self._halving = Halving("training", "lower batch_size, or take a smaller architecture or smaller slices")

    def __call__(self, images: Images, masks: Masks, dropout_seed: Callable[..., int]) -> float:
        """The loss; what the parameters' ``grad`` held is replaced.

        Args:
            images: this process's share of the batch.
            masks: of the same slices.
            dropout_seed: gives the global generator's seed before a pass; called with a half's number, or with none.

        Raises:
            NotEnoughMemoryError: half the batch is too much too.
        """
        if self._n_processes > 1:
            return self._of_whole(images, masks, dropout_seed)
        buffers = [buffer.clone() for buffer in self._network.buffers()]  # a pass that fails may have changed them

        def halves() -> float:
            self._restore(buffers)
            return self._of_halves(images, masks, dropout_seed)

        return self._halving.whole_or_halves(
            lambda: self._of_whole(images, masks, dropout_seed), halves, size=len(images)
        )

    def _of_whole(self, images: Images, masks: Masks, dropout_seed: Callable[..., int]) -> float:
        self._network.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed())
        loss = _loss(self._forward(images), masks)
        (loss / self._n_processes).backward()
        return float(loss.detach())

    def _of_halves(self, images: Images, masks: Masks, dropout_seed: Callable[..., int]) -> float:
        self._network.zero_grad(set_to_none=True)
        halves = images.split((len(images) + 1) // 2)
        buffers = [buffer.clone() for buffer in self._network.buffers()]
        given = []
        with torch.no_grad():
            for number, half in enumerate(halves):
                torch.manual_seed(dropout_seed(number))
                given.append(self._forward(half))
        self._restore(buffers)  # batch norms count each half once
        logits = torch.cat(given).requires_grad_()
        loss = _loss(logits, masks)
        loss.backward()
        assert logits.grad is not None
        for number, (half, wanted) in enumerate(zip(halves, logits.grad.split(len(halves[0])), strict=True)):
            torch.manual_seed(dropout_seed(number))
            self._forward(half).backward(wanted)
        return float(loss.detach())

    def _restore(self, buffers: list[Tensor]) -> None:
        for buffer, before in zip(self._network.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _loss(logits: Tensor, masks: Masks) -> Tensor:
    return dice_cross_entropy(resized(logits.float(), extent_of(masks)), masks)
