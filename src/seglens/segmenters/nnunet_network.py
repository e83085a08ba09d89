"""The U-Nets of nnU-Net v2, plain and with residual blocks, in two and three dimensions.

Isensee et al., nnU-Net (2021) and nnU-Net Revisited (arXiv 2404.09556). Names of parameters are upstream's, so that its
checkpoints fit; every tensor has one name.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seglens.documents import from_document
from seglens.foreign.plan_network import NetworkPlan
from seglens.segmenters.segmenter import Hookpoint, Layout

Sizes = tuple[int, ...]
_ACTIVATIONS: Mapping[str, Any] = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
_NORMS: Mapping[tuple[str, int], Any] = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}


class _Made:
    """Makes the layers that a plan asks for."""

    def __init__(self, plan: NetworkPlan):
        self.plan = plan
        planes = plan.spatial_dims == 2
        # Any: torch's types of sizes differ between two and three dimensions
        self.convolution: Any = nn.Conv2d if planes else nn.Conv3d
        self.transposed: Any = nn.ConvTranspose2d if planes else nn.ConvTranspose3d
        self.pooling: Any = nn.AvgPool2d if planes else nn.AvgPool3d

    def norm(self, channels: int) -> nn.Module | None:
        if self.plan.norm is None:
            return None
        made: nn.Module = _NORMS[self.plan.norm, self.plan.spatial_dims](channels, **self.plan.norm_settings)
        return made

    def activation(self) -> nn.Module:
        made: nn.Module = _ACTIVATIONS[self.plan.activation](**self.plan.activation_settings)
        return made


class ConvNorm(nn.Module):
    """A convolution, its norm and its activation."""

    def __init__(
        self,
        make: _Made,
        n_in: int,
        n_out: int,
        kernel: Sizes,
        stride: Sizes,
        *,
        bias: bool,
        active: bool = True,
    ):
        super().__init__()
        padding = tuple((size - 1) // 2 for size in kernel)
        self.conv = make.convolution(n_in, n_out, kernel, stride, padding, bias=bias)
        self.norm = make.norm(n_out)
        self.nonlin = make.activation() if active else None

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B C (D) H W]`` to features of the stride's grid."""
        features = self.conv(images)
        if self.norm is not None:
            features = self.norm(features)
        return features if self.nonlin is None else self.nonlin(features)


class ConvBlocks(nn.Module):
    """Convolutions one after the other; the first has the stride."""

    def __init__(self, make: _Made, n: int, widths: tuple[int, int], kernel: Sizes, stride: Sizes):
        super().__init__()
        n_in, n_out = widths
        still = (1,) * len(stride)
        self.convs = nn.Sequential(
            *(
                ConvNorm(make, n_out if place else n_in, n_out, kernel, still if place else stride, bias=make.plan.bias)
                for place in range(n)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """As the convolutions."""
        return self.convs(images)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which pools and projects where shapes differ (ResNet-D)."""

    def __init__(self, make: _Made, n_in: int, n_out: int, kernel: Sizes, stride: Sizes):
        super().__init__()
        still = (1,) * len(stride)
        self.conv1 = ConvNorm(make, n_in, n_out, kernel, stride, bias=make.plan.bias)
        self.conv2 = ConvNorm(make, n_out, n_out, kernel, still, bias=make.plan.bias, active=False)
        self.nonlin2 = make.activation()
        shortcut: list[nn.Module] = []
        if stride != still:
            shortcut.append(make.pooling(stride, stride))
        if n_in != n_out:
            shortcut.append(ConvNorm(make, n_in, n_out, still, still, bias=False, active=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, images: Tensor) -> Tensor:
        """Images to features of the stride's grid."""
        shortcut = self.skip(images)
        features = self.conv2(self.conv1(images))
        features += shortcut
        return self.nonlin2(features)


class ResidualBlocks(nn.Module):
    """Residual blocks one after the other; the first has the stride."""

    def __init__(self, make: _Made, n: int, widths: tuple[int, int], kernel: Sizes, stride: Sizes):
        super().__init__()
        n_in, n_out = widths
        still = (1,) * len(stride)
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(make, n_out if place else n_in, n_out, kernel, still if place else stride)
                for place in range(n)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """As the blocks."""
        return self.blocks(images)


class Encoder(nn.Module):
    """Stages from fine to coarse, plain or residual; a residual encoder has a stem."""

    def __init__(self, make: _Made, n_channels: int):
        super().__init__()
        plan = make.plan
        residual = plan.kind == "residual"
        first = plan.features[0]
        self.stem = (
            ConvBlocks(make, 1, (n_channels, first), plan.kernels[0], (1,) * plan.spatial_dims) if residual else None
        )
        widths = (first if residual else n_channels, *plan.features)
        shapes = list(zip(plan.n_blocks, pairwise(widths), plan.kernels, plan.strides, strict=True))
        self.stages = nn.Sequential(
            *(ResidualBlocks(make, *shape) if residual else nn.Sequential(ConvBlocks(make, *shape)) for shape in shapes)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every stage, the finest first."""
        features = images if self.stem is None else self.stem(images)
        found = []
        for stage in self.stages:
            features = stage(features)
            found.append(features)
        return found


class Decoder(nn.Module):
    """Stages from coarse to fine, each beside the encoder's of its size, and the head of the finest."""

    def __init__(self, make: _Made, n_heads: int):
        super().__init__()
        plan = make.plan
        stages, rising = [], []
        for place, n in enumerate(plan.n_decoder):
            below, beside = plan.features[-1 - place], plan.features[-2 - place]
            stride = plan.strides[-1 - place]
            rising.append(make.transposed(below, beside, stride, stride, bias=plan.bias))
            still = (1,) * plan.spatial_dims
            stages.append(ConvBlocks(make, n, (2 * beside, beside), plan.kernels[-2 - place], still))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(rising)
        self.seg_layers = nn.ModuleDict({str(last_stage(plan)): make.convolution(plan.features[0], n_heads, 1)})

    def forward(self, skips: list[Tensor]) -> Tensor:
        """Logits of the finest grid."""
        features = skips[-1]
        for place, (rise, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            features = stage(torch.cat((rise(features), skips[-2 - place]), 1))
        return self.seg_layers[str(len(self.stages) - 1)](features)


class NnunetNetwork(nn.Module):
    """nnU-Net's PlainConvUNet or ResidualEncoderUNet.

    Args:
        plan: its architecture.
        n_channels: of images.
        n_heads: logits a voxel; the heads that deep supervision trains at coarser stages are left out.
    """

    def __init__(self, plan: NetworkPlan, n_channels: int, n_heads: int):
        super().__init__()
        make = _Made(plan)
        self.encoder = Encoder(make, n_channels)
        self.decoder = Decoder(make, n_heads)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B C H W]`` or ``[B C D H W]``, sides multiples of the strides, to logits of their size."""
        return self.decoder(self.encoder(images))


def last_stage(plan: NetworkPlan) -> int:
    """Number of the finest stage of the decoder, the coarsest is 0."""
    return len(plan.features) - 2


def plan_of(document: Any) -> NetworkPlan:
    """The plan that `to_document` wrote.

    Raises:
        DocumentError: it is none.
    """
    return from_document(json.dumps(document), NetworkPlan, "the architecture nnunet")


def hookpoints_of(plan: NetworkPlan) -> dict[str, Hookpoint]:
    """Encoder from fine to coarse, then decoder from coarse to fine, as a forward pass reaches them."""
    layout: Layout = "BCHW" if plan.spatial_dims == 2 else "BCDHW"
    n = len(plan.features)
    encoder = {f"encoder{stage}": Hookpoint(f"encoder.stages.{stage}", layout) for stage in range(n)}
    decoder = {f"decoder{n - 2 - place}": Hookpoint(f"decoder.stages.{place}", layout) for place in range(n - 1)}
    return encoder | decoder
