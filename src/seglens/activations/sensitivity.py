"""How a segmenter's classes depend on the activation at a hookpoint: gradients on the token grid."""

from collections.abc import Sequence

import torch

from seglens.activations.hooks import edit
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, TokenGrid


def class_gradients(
    segmenter: Segmenter, hookpoint: str, images: Images, values: Sequence[int | None]
) -> tuple[TokenGrid, list[TokenGrid]]:
    """Gradients, by the activation, of the expected number of pixels of some classes.

    The expected number is the sum over the sample of the class's probability: the softmax of the logits. It moves where
    the segmentation is in doubt, and hardly where it is settled.

    Args:
        segmenter: the network; its parameters get no gradient.
        hookpoint: one of its own.
        images: normalised, on the segmenter's device.
        values: labels; None is the whole foreground.

    Returns:
        The activation [B d h w d_in], and for each label the gradient, of the same shape.
    """
    leaves: list[TokenGrid] = []

    def leaf(grid: TokenGrid) -> TokenGrid:
        leaves.append(grid.detach().clone().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), edit(segmenter, hookpoint, leaf):
        shares = segmenter.logits(images).softmax(1)
        found = []
        for number, value in enumerate(values):
            expected = (1 - shares[:, 0] if value is None else shares[:, value]).sum()
            (gradient,) = torch.autograd.grad(expected, leaves[0], retain_graph=number + 1 < len(values))
            found.append(gradient)
    return leaves[0].detach(), found
