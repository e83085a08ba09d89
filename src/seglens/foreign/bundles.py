"""Statements of a MONAI bundle about its model: network, preprocessing, windows and outputs, as plain data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.foreign.bundle_config import Config
from seglens.foreign.bundle_steps import (
    MAX_FACTOR,
    Call,
    ExportPlan,
    WindowPlan,
    arguments,
    read_export,
    read_transforms,
    read_windows,
    target,
)
from seglens.foreign.json_fields import Field, FieldError
from seglens.foreign.json_text import read_json

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
METADATA = "metadata.json"
WEIGHTS = "models/model.pt"
NETWORKS = (
    "UNet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "SegResNet", "SegResNetDS", "SegResNetVAE", "SwinUNETR",
    "UNETR", "AttentionUnet", "VNet", "FlexibleUNet", "HighResNet", "MedNeXt", "MedNeXtS", "MedNeXtB", "MedNeXtM",
    "MedNeXtL",
)  # fmt: skip
MAX_CHANNELS = 64
MAX_HEADS = 255
MAX_WIDTH = 65536
MAX_COUNT = 64
"""Of layers, and of values in a list of them."""
MAX_NAME = 80
_COUNTS = ("num_res_units", "blocks_down", "blocks_up", "blocks_bottleneck", "depths", "dsdepth", "deep_supr_num",
           "repeat", "num_layers", "kernel_size", "up_kernel_size", "upsample_kernel_size", "strides", "patch_size",
           "window_size", "kernels", "hyena_kernel_layers")  # fmt: skip
_CODE = ("preprocess", "norm_layer")
"""Arguments that take a class or a function."""
_NETWORK_KEYS = ("network_def", "network", "net")
_STEP_KEYS = ("preprocessing", "preprocess", "val_preprocessing")
_BRATS: Mapping[str, tuple[int, int]] = {
    "wt": (0, 2), "wholetumor": (0, 2), "wholetumour": (0, 2),
    "tc": (1, 1), "tumorcore": (1, 1), "tumourcore": (1, 1),
    "et": (2, 4), "enhancingtumor": (2, 4), "enhancingtumour": (2, 4),
}  # fmt: skip
"""Place from the lowest to the top, and value: the whole tumour is edema where no core lies on it, the core necrosis
where nothing enhances."""
_FIX = "take the file as its bundle has it"


@dataclass(frozen=True)
class BundlePlan:
    """Expectations, steps and outputs of a bundle.

    Attributes:
        name: of the bundle.
        version: as its metadata say; "" where they do not.
        network: one of `NETWORKS` and its arguments.
        spatial_dims: 2 or 3.
        channels: names, in order.
        heads: names of the network's outputs, in its order.
        regions: each output is decided by its sigmoid; else the largest wins.
        order: of regions, numbers of outputs from the lowest to the one on top.
        codes: value that is written for each of these, or for each class.
        nested: each region lies inside of the one before it in this order.
        transforms: done to an image before.
        windows: how the network is run over it.
        export: of what comes out.
        shape: of images that the metadata speak of; 0 where they leave an axis free; empty where they say nothing.
        multiple: of which sides are to be, as the metadata say.
    """

    name: str
    version: str
    network: Call
    spatial_dims: int
    channels: tuple[str, ...]
    heads: tuple[str, ...]
    regions: bool
    order: tuple[int, ...]
    codes: tuple[int, ...]
    nested: bool
    transforms: tuple[Call, ...]
    windows: WindowPlan
    export: ExportPlan
    shape: tuple[int, ...] = ()
    multiple: int = 1


def bundle_config(folder: Path) -> Path | None:
    """The configuration of inference of a bundle's folder; None where it is no bundle."""
    return next((found for name in CONFIGS if (found := folder / "configs" / name).is_file()), None)


def read_bundle(folder: Path, settings: Mapping[str, Any] | None = None) -> BundlePlan:
    """Read what a bundle says of its model; nothing that it names is imported, no expression is run.

    Args:
        folder: with ``configs/inference.json`` or ``.yaml``, and ``configs/metadata.json``.
        settings: key of the configuration to a value in its place, for what its author left to code.

    Raises:
        FieldError: by key, with what is legal and what to do: code where a value is needed, a class that is not in the
            tables, references that lead round, or absurd sizes.
    """
    file = bundle_config(folder)
    if file is None:
        raise FieldError(f"{folder}: holds no configs/{CONFIGS[0]}; give the folder of a MONAI bundle")
    config = Config.read(file, settings)
    network, spatial_dims, n_channels, n_heads = _network(config)
    metadata = _metadata(folder)
    data = metadata.get("network_data_format")
    inputs, outputs = (_only(data, key) for key in ("inputs", "outputs"))
    windows = next((key for key in ("inferer",) if key in config), None)
    steps = next((key for key in _STEP_KEYS if key in config), None)
    if windows is None or steps is None:
        absent = "inferer" if windows is None else "preprocessing"
        raise FieldError(
            f"{file}: it has no key {absent!r}; give it by settings={{{absent!r}: ...}} (--set {absent}=...)"
        )
    export, regions = read_export(config, config.entry("postprocessing") if "postprocessing" in config else None)
    if regions is None:
        regions = n_heads == 1
    if not regions and n_heads < 2:
        raise FieldError(
            f"{file}: out_channels is 1 and its postprocessing says softmax or argmax, which is 0 everywhere; legal: "
            "sigmoid for one output; correct the postprocessing by settings"
        )
    heads = _names(outputs, n_heads, "region" if regions else "class")
    order, codes, nested = _ranked(heads) if regions else (tuple(range(n_heads)), tuple(range(n_heads)), False)
    shape, multiple = _shape(inputs, spatial_dims)
    version = metadata.get("version")
    return BundlePlan(
        folder.resolve().name[:200],
        version.text()[:40] if version is not None and isinstance(version.value, str) else "",
        network,
        spatial_dims,
        _names(inputs, n_channels, "channel"),
        heads,
        regions,
        order,
        codes,
        nested,
        read_transforms(config, config.entry(steps)),
        read_windows(config, config.entry(windows), spatial_dims),
        export,
        shape,
        multiple,
    )


def _network(config: Config) -> tuple[Call, int, int, int]:
    """The network, its axes of space, channels and outputs."""
    key = next((key for key in _NETWORK_KEYS if key in config), None)
    if key is None:
        raise FieldError(f"{config.file}: it has no key 'network_def'; give it by settings={{'network_def': ...}}")
    own = config.entry(key)
    if not isinstance(own.value, dict):
        own.refuse("an object with _target_; code in a bundle is never run")
    name = target(config, own)
    if name not in NETWORKS:
        own["_target_"].refuse(
            ", ".join(NETWORKS), "build the network yourself, and give it to Segmenter.wrap(network, ...)"
        )
    given: dict[str, Any] = {}
    for argument, entry in arguments(own).items():
        value = Field(entry.file, entry.keys, config.literal(entry), entry.fix)
        if argument in _CODE and value.value is not None:
            value.refuse("null: a class or function is never taken from a bundle")
        refuse_absurd(value, argument)
        given[argument] = value.value
    absent = {
        "spatial_dims": 2 if name == "FlexibleUNet" else 3,
        "in_channels": 1,
        "out_channels": 1 if name in ("VNet", "HighResNet") else 2,
    }
    limits = {"spatial_dims": (2, 3), "in_channels": (1, MAX_CHANNELS), "out_channels": (1, MAX_HEADS)}
    stated = {
        key: Field(own.file, f"{own.keys}.{key}", given.get(key, default), own.fix).whole(*limits[key])
        for key, default in absent.items()
    }
    return Call(name, given), stated["spatial_dims"], stated["in_channels"], stated["out_channels"]


def refuse_absurd(own: Field, argument: str = "", depth: int = 0) -> None:
    """Refuse sizes and texts that no network has.

    Args:
        own: a plain value that a network is to be built of.
        argument: that it is given as; some are counts.
        depth: levels above it.

    Raises:
        FieldError: by its key.
    """
    value = own.value
    if depth > 4:
        own.refuse("fewer levels")
    if isinstance(value, dict | list):
        if len(value) > MAX_COUNT:
            own.refuse(f"at most {MAX_COUNT} values")
        parts = own.entries().items() if isinstance(value, dict) else [(argument, item) for item in own.items()]
        for key, part in parts:
            refuse_absurd(part, key, depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_NAME:
            own.refuse(f"a text of at most {MAX_NAME} characters")
    elif isinstance(value, int) and not isinstance(value, bool):
        own.whole(-1, MAX_COUNT if argument in _COUNTS else MAX_WIDTH)
    elif isinstance(value, float):
        own.number(-MAX_FACTOR, MAX_FACTOR)


def _metadata(folder: Path) -> Field:
    """Of a bundle; empty where there are none."""
    file = folder / "configs" / METADATA
    if not file.is_file():
        return Field(file, "", {}, _FIX)
    try:
        own = Field(file, "", read_json(file), _FIX)
    except ValueError as error:
        raise FieldError(f"{file}: {error}; {_FIX}") from None
    own.entries()
    return own


def _only(data: Field | None, key: str) -> Field | None:
    """The one input or output that metadata describe."""
    found = None if data is None or not isinstance(data.value, dict) else data.get(key)
    entries = {} if found is None or not isinstance(found.value, dict) else found.entries()
    named = entries.get("image" if key == "inputs" else "pred") or next(iter(entries.values()), None)
    return named if named is not None and isinstance(named.value, dict) else None


def _names(own: Field | None, n: int, kind: str) -> tuple[str, ...]:
    """Names of channels, classes or regions, each different; numbers where the metadata do not name as many."""
    numbered = tuple(f"{kind}_{number}" for number in range(n))
    defined = None if own is None else own.get("channel_def") or own.get("label_def")
    entries = {} if defined is None or not isinstance(defined.value, dict) else defined.entries()
    if set(entries) != {str(number) for number in range(n)}:
        return numbered
    given = (entries[str(number)].value for number in range(n))
    names = tuple(name[:MAX_NAME].strip() if isinstance(name, str) else "" for name in given)
    return tuple(
        name if name and names.count(name) == 1 else f"{name}_{number}" if name else numbered[number]
        for number, name in enumerate(names)
    )


def _ranked(heads: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Order and values of regions: as BraTS writes its three, nested; else later ones on top, numbered from 1."""
    plain = [re.sub(r"[^a-z]", "", name.lower()) for name in heads]
    known = [_BRATS[name] for name in plain if name in _BRATS]
    if len(known) == len(heads) == len(set(known)) == 3:
        order = sorted(range(3), key=lambda head: known[head][0])
        return tuple(order), tuple(known[head][1] for head in order), True
    return tuple(range(len(heads))), tuple(range(1, len(heads) + 1)), False


def _shape(own: Field | None, n_axes: int) -> tuple[tuple[int, ...], int]:
    """Sides of images, and of what each is to be a multiple (``"8*n"``)."""
    stated = None if own is None else own.get("spatial_shape")
    sides = stated.value if stated is not None and isinstance(stated.value, list) else []
    if len(sides) != n_axes:
        return (), 1
    multiples = [int(found[1]) for side in sides if (found := re.fullmatch(r"(\d{1,3})\s*\*\s*n", str(side)))]
    known = tuple(side if type(side) is int and 0 < side <= 4096 else 0 for side in sides)
    return known, max([1, *multiples])
