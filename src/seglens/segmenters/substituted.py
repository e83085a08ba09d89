"""A network with other weights for the length of a call."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from seglens.shapes import Logits


class Substituted(nn.Module):
    """A network some of whose weights and buffers can be others for the length of a call."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[[], Logits]) -> Logits:
        """Compute the network with the weights that it has now."""
        return compute()

    def logits(self, compute: Callable[[], Logits], values: Mapping[str, Tensor]) -> Logits:
        """Logits with these weights and buffers in place of the network's own.

        Args:
            compute: any pass through the network, or through its part behind a place.
            values: by their names in the network.
        """
        renamed = {f"network.{name}": value for name, value in values.items()}
        replaced: Logits = torch.func.functional_call(self, renamed, (compute,))
        return replaced
