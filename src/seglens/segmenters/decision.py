"""Decision of a model: from its logits to labels, by the largest of classes or by regions that lie on each other."""

from dataclasses import dataclass

import torch

from seglens.shapes import Logits, Masks


@dataclass(frozen=True)
class Decision:
    """From logits to labels.

    Attributes:
        regions: logits are of the labels from 1 on, each a region of its own (sigmoid), later ones on top; one region
            is a model of one class. Else they are of all labels, and the largest wins.
        order: number of the network's output that each of these logits is; empty: as they come.
    """

    regions: bool = False
    order: tuple[int, ...] = ()

    def ordered(self, logits: Logits) -> Logits:
        """The network's outputs in the order of the labels."""
        return logits[:, list(self.order)] if self.order else logits

    def labels(self, logits: Logits) -> Masks:
        """The label of each voxel ``[B D H W]`` for logits in the order of the labels."""
        return last_region(logits) if self.regions else most_likely(logits)


CLASSES = Decision()


def most_likely(logits: Logits) -> Masks:
    """The class with the largest logit, the first of equal ones: what the network itself says ``[B D H W]``."""
    # torch's argmax over a dimension that is not the last takes seven times as long on a CPU
    return logits.max(dim=1).indices.to(torch.uint8)


def last_region(logits: Logits) -> Masks:
    """Labels of overlapping regions ``[B D H W]``: 1 more than the last channel that is likelier than not, or 0."""
    holds = logits.float().sigmoid() > 0.5
    order = torch.arange(1, logits.shape[1] + 1, dtype=torch.uint8, device=logits.device)
    return (holds * order[:, None, None, None]).amax(1)
