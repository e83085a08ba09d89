"""Decision of a model: from its logits to labels, by the largest of classes or by regions that lie on each other."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from seglens.shapes import Logits, Masks


@dataclass(frozen=True)
class Decision:
    """From logits to labels.

    Attributes:
        regions: logits are of the labels from 1 on, each a region of its own (sigmoid), later ones on top; one region
            is a model of one class. Else they are of all labels, and the largest wins.
        order: number of the network's output that each of these logits is; empty: as they come.
        members: of each region from label 1 on, the labels whose voxels belong to it: its own, and those of regions
            inside of it, which lie on top; empty: its own alone.
    """

    regions: bool = False
    order: tuple[int, ...] = ()
    members: tuple[tuple[int, ...], ...] = ()

    def membership(self, n_labels: int) -> Int64[Tensor, "K K"]:
        """1 where the voxels of a label (columns) belong to a label or region (rows)."""
        table = torch.eye(n_labels, dtype=torch.int64)
        for region, members in enumerate(self.members, 1):
            table[region, list(members)] = 1
        return table

    def belongs(self, masks: Masks, label: int | None) -> Bool[Tensor, "B D H W"]:
        """Voxels of a label or region in masks of labels; of any but the background for None."""
        if label is None:
            return masks > 0
        own = self.members[label - 1] if self.members and label else (label,)
        return torch.isin(masks, torch.tensor(sorted({label, *own}), dtype=masks.dtype, device=masks.device))

    def says(self, logits: Logits, label: int | None) -> Bool[Tensor, "B D H W"]:
        """Voxels that logits in the order of the labels give to a label or region; to any foreground for None."""
        if self.regions:
            return self.log_odds(logits, label) > 0
        predicted = logits.argmax(dim=1)
        return predicted > 0 if label is None else predicted == label

    def log_odds(self, logits: Logits, label: int | None) -> Float[Tensor, "B D H W"]:
        """Log odds of a label or region, or of any foreground for None; gradients flow.

        Of regions the foreground is where some region holds, so that its log odds are those of the likeliest.
        """
        if self.regions:
            return logits.amax(dim=1) if label is None else logits[:, label - 1]
        if label is None:
            return logits[:, 1:].logsumexp(dim=1) - logits[:, 0]
        others = [other for other in range(logits.shape[1]) if other != label]
        return logits[:, label] - logits[:, others].logsumexp(dim=1)

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
