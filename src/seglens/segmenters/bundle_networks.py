"""MONAI's networks of a fixed table, built without memory first, and where each can be opened."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seglens.foreign.bundle_steps import Call
from seglens.foreign.bundles import NETWORKS, BundlePlan
from seglens.foreign.tensors import WeightsError
from seglens.segmenters.segmenter import Hookpoint, Layout
from seglens.segmenters.weights import fit_weights
from seglens.shapes import Extent

_FORCED: Mapping[str, Any] = {"pretrained": False, "use_checkpoint": False, "save_attn": False}
"""The weights are the file's; nothing is downloaded."""
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_STEM = r"(?:model(?:\.1\.submodule)*)"
_SEGRESNET = (
    ("encoder{}", r"down_layers\.(\d+)"),
    ("decoder{}", r"up_layers\.(\d+)"),
)
_MEDNEXT = (
    ("encoder{}", r"enc_stages\.(\d+)"),
    ("bottleneck", r"bottleneck"),
    ("decoder{}", r"dec_stages\.(\d+)"),
)
_PLACES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "UNet": (
        ("encoder{}", rf"{_STEM}\.0"),
        ("bottleneck", r"model(?:\.1\.submodule)+"),
        ("decoder{}", rf"{_STEM}\.2"),
    ),
    "AttentionUnet": (
        ("encoder{}", rf"{_STEM}\.0"),
        ("bottleneck", r"model(?:\.1\.submodule)+"),
        ("decoder{}", r"model\.1(?:\.submodule\.1)*\.merge"),
    ),
    "BasicUNet": (("encoder0", r"conv_0"), ("encoder{}", r"down_(\d)"), ("decoder{}", r"upcat_(\d)")),
    "BasicUNetPlusPlus": (("encoder{}", r"conv_(\d)_0"), ("decoder{}", r"upcat_(\d_\d)")),
    "DynUNet": (
        ("encoder0", r"input_block"),
        ("encoder{+1}", r"downsamples\.(\d+)"),
        ("bottleneck", r"bottleneck"),
        ("decoder{}", r"upsamples\.(\d+)"),
    ),
    "SegResNet": _SEGRESNET,
    "SegResNetVAE": _SEGRESNET,
    "SegResNetDS": (
        ("encoder{}", r"encoder\.layers\.(\d+)\.blocks"),
        ("decoder{}", r"up_layers\.(\d+)\.blocks"),
    ),
    "SwinUNETR": (
        ("swin{}", r"swinViT\.layers(\d)\.0"),
        ("encoder{}", r"encoder(\d+)"),
        ("decoder{}", r"decoder(\d)"),
    ),
    "UNETR": (("vit{}", r"vit\.blocks\.(\d+)"), ("encoder{}", r"encoder(\d)"), ("decoder{}", r"decoder(\d)")),
    "VNet": (("encoder0", r"in_tr"), ("encoder{}", r"down_tr(\d+)"), ("decoder{}", r"up_tr(\d+)")),
    "FlexibleUNet": (("decoder{}", r"decoder\.blocks\.(\d+)"),),
    "HighResNet": (("block{}", r"blocks\.(\d+)"),),
    "MedNeXt": _MEDNEXT,
}
"""Of a class: names of hookpoints, and the modules of each as they lie in the network."""
_NESTED = ("UNet", "AttentionUnet")
"""Each level holds the next: the decoder of the innermost runs first."""
_LOGITS = ("model.2",)


class _RealSteps(TorchFunctionMode):
    """Steps of a line, which constructors look at, have values where all else has sizes only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.linspace:
            given.setdefault("device", "cpu")
        return func(*args, **given)


def bundle_network(plan: BundlePlan, weights: Mapping[str, Tensor], origin: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a bundle with its weights, in evaluation mode.

    It is built on no device, so that its sizes are compared with the file's before memory is taken.

    Args:
        plan: of the bundle.
        weights: by name.
        origin: what they are called in a message.

    Returns:
        The network, and names of arguments that its class no longer has, which were left out.

    Raises:
        ValueError: arguments that the class cannot be built of, or weights that do not fit.
    """
    with torch.device("meta"), _RealSteps():
        network, dropped = _built(plan.network, origin)
    own = {_WRAPPERS.sub("", name): tensor for name, tensor in weights.items()}
    real = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
    fit_weights(network, real, origin, assign=True)
    left = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(
            f"{origin}: {plan.network.name} computes {', '.join(left[:5])} and the file does not hold it; build the "
            "network yourself, and give it to Segmenter.wrap(network, ...)"
        )
    return network.eval(), dropped


def monai_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network of the table with random weights.

    Args:
        name: of its class.
        arguments: plain values.

    Raises:
        ValueError: it is not in the table, or cannot be built of these.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network of MONAI's {name!r} can be built; there are {', '.join(NETWORKS)}")
    return _built(Call(name, arguments), "the architecture monai")[0]


def monai_places(name: str, arguments: Mapping[str, Any], window: Extent) -> dict[str, Hookpoint]:
    """Where a network of the table can be opened; arguments as `monai_network`, and the window that it is shown."""
    with torch.device("meta"), _RealSteps():
        network = monai_network(name, arguments)
    return places_of(network, name, window)


def _built(call: Call, origin: str) -> tuple[nn.Module, tuple[str, ...]]:
    """An instance of a class of the table, and the arguments that it does not have."""
    from monai.networks import nets

    kind = getattr(nets, call.name)
    plain = nets.MedNeXt if call.name.startswith("MedNeXt") else kind
    legal = inspect.signature(plain).parameters
    given = {key: value for key, value in call.arguments.items() if key in legal}
    given |= {key: value for key, value in _FORCED.items() if key in legal}
    try:
        network: nn.Module = kind(**given)
    except Exception as fault:  # constructors fail in as many ways as there are arguments
        reason = (str(fault) or type(fault).__name__).splitlines()[0][:300]
        raise ValueError(
            f"{origin}: MONAI's {call.name} cannot be built of the arguments that the bundle gives ({reason}); correct "
            "network_def by settings={'network_def#ARGUMENT': ...} (--set network_def#ARGUMENT=...)"
        ) from None
    return network, tuple(key for key in call.arguments if key not in legal)


def places_of(network: nn.Module, name: str, extent: Extent) -> dict[str, Hookpoint]:
    """Where a network of the table can be opened, as its modules lie.

    Args:
        network: that was built.
        name: of its class.
        extent: slices, rows and columns that it is shown; one slice for a network of planes.
    """
    layout: Layout = "BCHW" if extent[0] == 1 else "BCDHW"
    kind = "MedNeXt" if name.startswith("MedNeXt") else name
    modules = [name for name, _ in network.named_modules()]
    found: dict[str, Hookpoint] = {}
    for place, pattern in _PLACES[kind]:
        matches = [match for module in modules if (match := re.fullmatch(pattern, module))]
        if place == "bottleneck" and kind in _NESTED:
            matches = matches[-1:]  # the innermost: those around it are the rest of the network
        if kind == "HighResNet":
            matches = matches[:-1]  # the last one gives the logits
        numbered = list(enumerate(matches))
        for number, match in reversed(numbered) if place.startswith("decoder") and kind in _NESTED else numbered:
            if match[0] in _LOGITS:
                continue
            spot = match[1] if match.re.groups else str(number)
            own = place.replace("{+1}", str(int(spot) + 1) if spot.isdecimal() else spot).replace("{}", spot)
            found[own] = _hookpoint(match[0], layout, extent)
    return found


def _hookpoint(module: str, layout: Layout, extent: Extent) -> Hookpoint:
    if not module.startswith("vit.blocks."):
        return Hookpoint(module, layout)
    depth, rows, columns = (max(1, side // 16) for side in extent)  # MONAI's UNETR has patches of 16
    return Hookpoint(module, "BNC", grid=(depth, rows, columns))
