"""The network of a configuration of nnU-Net's plans, out of fixed tables: no name in them is ever imported."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from seglens.foreign.json_fields import Field

Kind = Literal["plain", "residual"]
Norm = Literal["instance", "batch"]
Activation = Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
MAX_STAGES = 16
MAX_FEATURES = 8192
MAX_BLOCKS = 64
MAX_KERNEL = 31
MAX_STRIDE = 8
_PACKAGE = "dynamic_network_architectures.architectures"
_CLASSES: Mapping[str, Kind] = {
    f"{_PACKAGE}.unet.PlainConvUNet": "plain",
    f"{_PACKAGE}.unet.ResidualEncoderUNet": "residual",
    f"{_PACKAGE}.residual_unet.ResidualEncoderUNet": "residual",
}
_OLD_CLASSES: Mapping[str, Kind] = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
_CONVOLUTIONS = {f"torch.nn{module}.Conv{n}d": n for n in (2, 3) for module in (".modules.conv", "")}
_NORMS: Mapping[str | None, tuple[Norm, int] | None] = {
    None: None,
    **{
        f"torch.nn{module}.InstanceNorm{n}d": ("instance", n)
        for n in (2, 3)
        for module in (".modules.instancenorm", "")
    },
    **{f"torch.nn{module}.BatchNorm{n}d": ("batch", n) for n in (2, 3) for module in (".modules.batchnorm", "")},
}
_NONLINEARITIES: Mapping[str, Activation] = {
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "ELU": "elu",
    "GELU": "gelu",
    "SiLU": "silu",
}
_ACTIVATIONS = {
    f"torch.nn{module}.{name}": kind for module in ("", ".modules.activation") for name, kind in _NONLINEARITIES.items()
}
_DROPOUTS: Mapping[str | None, bool] = {
    None: False,
    **{f"torch.nn{module}.Dropout{n}": True for n in ("", "2d", "3d") for module in (".modules.dropout", "")},
}
_BLOCK = "dynamic_network_architectures.building_blocks.residual.BasicBlockD"
_OPEN_OTHERWISE = "open this network as a module of your own: Segmenter.wrap(network, ...)"
_READ = {
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias"),
    *("n_conv_per_stage", "n_blocks_per_stage", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs", "dropout_op"),
}
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "nonlin_first": (False,),
    "bottleneck_channels": (None,),
    "block": (None, _BLOCK),
    "stem_channels": (None,),
    "stochastic_depth_p": (0, 0.0),
    "squeeze_excitation": (False,),
    "pool_type": ("conv",),
    "disable_default_stem": (False,),
}
"""Settings that change the network, and the values at which they do not."""
_WITHOUT_MEANING = {"dropout_op_kwargs", "deep_supervision", "squeeze_excitation_reduction_ratio"}
"""Settings that change nothing of what a trained network computes."""


@dataclass(frozen=True)
class NetworkPlan:
    """A U-Net as nnU-Net describes it; tuples run from the finest stage to the coarsest where nothing else is said.

    Attributes:
        kind: with a plain encoder, or one of residual blocks.
        spatial_dims: 2 or 3.
        features: channels of a stage.
        kernels: of a stage, a size an axis; odd.
        strides: of the first convolution of a stage, an axis each.
        n_blocks: convolutions, or residual blocks, of a stage of the encoder.
        n_decoder: convolutions of a stage of the decoder, one stage fewer, the coarsest first.
        bias: of convolutions.
        norm: None for none.
        norm_settings: ``eps`` and ``momentum`` (numbers), ``affine`` and ``track_running_stats`` (truths).
        activation: between convolutions.
        activation_settings: ``negative_slope`` and ``alpha`` (numbers), ``inplace`` (a truth).
        dropout: whether there is a dropout in each block, which counts in the numbers of names of weights.
    """

    kind: Kind
    spatial_dims: Literal[2, 3]
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_blocks: tuple[int, ...]
    n_decoder: tuple[int, ...]
    bias: bool = True
    norm: Norm | None = "instance"
    norm_settings: Mapping[str, float | bool] = field(default_factory=lambda: {"eps": 1e-5, "affine": True})
    activation: Activation = "leaky_relu"
    activation_settings: Mapping[str, float | bool] = field(default_factory=lambda: {"inplace": True})
    dropout: bool = False

    @property
    def shrinks(self) -> tuple[int, ...]:
        """Product of the strides of all stages, an axis each: sides of a patch are multiples of it."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


def read_network(configuration: Field, spatial_dims: int) -> NetworkPlan:
    """The network of one configuration, in the present format or the old one.

    Args:
        configuration: of the plans, whatever it inherits put in.
        spatial_dims: as many as its patch has axes.

    Raises:
        FieldError: a class, kernel, norm or setting that is not in the tables.
    """
    if "architecture" in configuration:
        return _present(configuration["architecture"], spatial_dims)
    if "UNet_class_name" in configuration:
        return _old(configuration, spatial_dims)
    return _refuse_absent(configuration)


def _refuse_absent(configuration: Field) -> NetworkPlan:
    configuration.refuse("an object with architecture, or UNet_class_name in plans of before 2024")


def _present(architecture: Field, spatial_dims: int) -> NetworkPlan:
    kind = architecture["network_class_name"].one_of(_CLASSES, _OPEN_OTHERWISE)
    settings = architecture["arch_kwargs"]
    for name, entry in settings.entries().items():
        if name in _NEUTRAL and entry.value not in _NEUTRAL[name]:
            entry.refuse(" or ".join(map(str, _NEUTRAL[name])), _OPEN_OTHERWISE)
        if name not in _READ and name not in _NEUTRAL and name not in _WITHOUT_MEANING:
            entry.refuse(f"no such setting; known are {', '.join(sorted(_READ | set(_NEUTRAL)))}", _OPEN_OTHERWISE)
    if settings["conv_op"].one_of(_CONVOLUTIONS) != spatial_dims:
        settings["conv_op"].refuse(f"Conv{spatial_dims}d, for patch_size has {spatial_dims} axes")
    n_stages = settings["n_stages"].whole(2, MAX_STAGES)
    norm = settings["norm_op"].one_of(_NORMS, _OPEN_OTHERWISE) if "norm_op" in settings else None
    if norm is not None and norm[1] != spatial_dims:
        settings["norm_op"].refuse(f"a norm of {spatial_dims} axes, for patch_size has as many")
    count = "n_conv_per_stage" if kind == "plain" else "n_blocks_per_stage"
    return _plan(
        kind,
        spatial_dims,
        features=_numbers(settings["features_per_stage"], n_stages, MAX_FEATURES),
        kernels=settings["kernel_sizes"],
        strides=settings["strides"],
        n_blocks=_numbers(settings[count], n_stages, MAX_BLOCKS),
        decoder=settings["n_conv_per_stage_decoder"],
        bias=settings["conv_bias"].truth() if "conv_bias" in settings else False,
        norm=norm and norm[0],
        norm_settings=_settings(settings, "norm_op_kwargs", ("eps", "momentum"), ("affine", "track_running_stats")),
        activation=settings["nonlin"].one_of(_ACTIVATIONS, _OPEN_OTHERWISE),
        activation_settings=_settings(settings, "nonlin_kwargs", ("negative_slope", "alpha"), ("inplace",)),
        dropout=settings["dropout_op"].one_of(_DROPOUTS) if "dropout_op" in settings else False,
    )


def _old(configuration: Field, spatial_dims: int) -> NetworkPlan:
    """As nnU-Net itself fills up what old plans left unsaid: instance norm, leaky ReLU, bias."""
    kind = configuration["UNet_class_name"].one_of(_OLD_CLASSES, _OPEN_OTHERWISE)
    n_stages = len(configuration["n_conv_per_stage_encoder"].items())
    if not 2 <= n_stages <= MAX_STAGES:
        configuration["n_conv_per_stage_encoder"].refuse(f"a list of 2 to {MAX_STAGES}")
    first = configuration["UNet_base_num_features"].whole(1, MAX_FEATURES)
    most = configuration["unet_max_num_features"].whole(1, MAX_FEATURES)
    return _plan(
        kind,
        spatial_dims,
        features=tuple(min(first * 2**stage, most) for stage in range(n_stages)),
        kernels=configuration["conv_kernel_sizes"],
        strides=configuration["pool_op_kernel_sizes"],
        n_blocks=_numbers(configuration["n_conv_per_stage_encoder"], n_stages, MAX_BLOCKS),
        decoder=configuration["n_conv_per_stage_decoder"],
    )


def _plan(
    kind: Kind,
    spatial_dims: int,
    *,
    features: tuple[int, ...],
    kernels: Field,
    strides: Field,
    n_blocks: tuple[int, ...],
    decoder: Field,
    bias: bool = True,
    norm: Norm | None = "instance",
    norm_settings: Mapping[str, float | bool] | None = None,
    activation: Activation = "leaky_relu",
    activation_settings: Mapping[str, float | bool] | None = None,
    dropout: bool = False,
) -> NetworkPlan:
    n_stages = len(features)
    sizes = _sizes(kernels, n_stages, spatial_dims, MAX_KERNEL)
    if any(size % 2 == 0 for stage in sizes for size in stage):
        kernels.refuse("odd sizes")
    steps = _sizes(strides, n_stages, spatial_dims, MAX_STRIDE)
    if set(steps[0]) != {1}:
        first = strides.items()[0] if isinstance(strides.value, list) else strides
        first.refuse("1 along each axis: the first stage is of the image's own grid", _OPEN_OTHERWISE)
    return NetworkPlan(
        kind,
        2 if spatial_dims == 2 else 3,
        features,
        sizes,
        steps,
        n_blocks,
        _numbers(decoder, n_stages - 1, MAX_BLOCKS),
        bias,
        norm,
        {"eps": 1e-5, "affine": True} if norm_settings is None else norm_settings,
        activation,
        {"inplace": True} if activation_settings is None else activation_settings,
        dropout,
    )


def _numbers(values: Field, n: int, high: int) -> tuple[int, ...]:
    """A number a stage; one number stands for all."""
    if isinstance(values.value, list):
        return values.wholes(n, 1, high)
    return (values.whole(1, high),) * n


def _sizes(values: Field, n: int, axes: int, high: int) -> tuple[tuple[int, ...], ...]:
    """A size an axis, a stage each; one number stands for all axes or stages."""
    if not isinstance(values.value, list):
        return ((values.whole(1, high),) * axes,) * n
    return tuple(
        stage.wholes(axes, 1, high) if isinstance(stage.value, list) else (stage.whole(1, high),) * axes
        for stage in values.items(n)
    )


def _settings(
    settings: Field, key: str, numbers: tuple[str, ...], truths: tuple[str, ...]
) -> Mapping[str, float | bool]:
    """The keyword arguments of a class of torch, each known and of its kind; none where there is null."""
    found: dict[str, float | bool] = {}
    given = settings.get(key)
    for name, entry in ({} if given is None else given.entries()).items():
        if name in numbers:
            found[name] = entry.number(0, 1e3)
        elif name in truths:
            found[name] = entry.truth()
        else:
            entry.refuse(f"no such setting; known are {', '.join((*numbers, *truths))}", _OPEN_OTHERWISE)
    return found
