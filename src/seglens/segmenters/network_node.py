"""Parts of a network that read each other's outputs: what a graph of it is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

INPUT = "input"
"""Name of what stands for the images among the parts that others read."""


@dataclass(frozen=True)
class NetworkNode:
    """One part of a network, as a function of the outputs of earlier parts.

    Where several parts are added up before this one reads them (a residual stream), they share a slot; where they are
    joined (the skip of a U-Net) each has its own. So what this part gets of one other can be changed alone.

    Attributes:
        name: as tables show it, such as ``"stage1.mlp2"``.
        stage: where it stands, such as ``"stage1"`` or ``"decoder"``.
        slots: for each argument of ``run``, names of the parts whose outputs are added up, in the order of the sum.
        run: from one tensor a slot to this part's output; channels are axis 1. The last part gives the network's own
            logits.
    """

    name: str
    stage: str
    slots: tuple[tuple[str, ...], ...]
    run: Callable[..., Tensor]
