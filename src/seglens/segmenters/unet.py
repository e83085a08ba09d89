"""MONAI's basic U-Net, bit for bit, without copies that its defaults make."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets.basic_unet import BasicUNet, UpCat
from torch import Tensor, nn
from torch.nn import functional

from seglens.segmenters.network_node import INPUT, NetworkNode


class PaddedWhereOdd(UpCat):
    """An upsampling level that pads only where the encoder's map has an odd side.

    MONAI's pads always, most often by nothing: under autocast that copies the maps to float32 and back.
    """

    def forward(self, x: Tensor, x_e: Tensor) -> Tensor:
        """Coarse map ``[B d h w]`` and the encoder's ``[B e H W]``, to ``[B f H W]``."""
        upsampled = self.upsample(x)
        rows, columns = (wanted - got for wanted, got in zip(x_e.shape[2:], upsampled.shape[2:], strict=True))
        if rows or columns:
            upsampled = functional.pad(upsampled, (0, columns, 0, rows), "replicate")
        joined: Tensor = self.convs(torch.cat([x_e, upsampled], dim=1))
        return joined


def unet(n_sequences: int, n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """A U-Net with random weights of the global generator.

    Args:
        n_sequences: input channels.
        n_classes: output channels.
        settings: of `seglens.segmenters.architectures.Architecture.describe`.
    """
    network: nn.Module = BasicUNet(
        spatial_dims=2,
        in_channels=n_sequences,
        out_channels=n_classes,
        features=tuple(settings["features"]),
        # instance norm returns a view; changed in place, its gradient is copied four times
        act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
        dropout=settings["dropout"],
    )
    for level in network.children():
        if isinstance(level, UpCat):
            # the same module under another class, not initialised again: the weights are those of MONAI for the seed
            level.__class__ = PaddedWhereOdd
    return network


def unet_nodes(network: nn.Module) -> tuple[NetworkNode, ...]:
    """Parts of a network of `unet`: its levels, and in each of the decoder a slot for the skip alone."""
    chain = ["conv_0", *(f"down_{level}" for level in range(1, 5))]
    parts = [
        NetworkNode(name, "encoder", ((before,),), network.get_submodule(name))
        for before, name in zip([INPUT, *chain], chain, strict=False)
    ]
    coarse = chain[-1]
    for level, skip in zip(range(4, 0, -1), reversed(chain[:-1]), strict=True):
        name = f"upcat_{level}"
        parts.append(NetworkNode(name, "decoder", ((coarse,), (skip,)), network.get_submodule(name)))
        coarse = name
    parts.append(NetworkNode("final_conv", "head", ((coarse,),), network.get_submodule("final_conv")))
    return tuple(parts)
