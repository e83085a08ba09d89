"""Steps of a MONAI bundle before, around and after its network, out of fixed tables: no name is ever imported."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seglens.foreign.bundle_config import Config
from seglens.foreign.json_fields import Field, FieldError

MAX_SIDE = 4096
MAX_FACTOR = 1e9
_CLASS = re.compile(r"(?:monai\.(?:transforms|inferers|networks\.nets)\.(?:\w+\.)*)?(\w{1,80})")
_META = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_")
Check = Callable[[Field], Any]
Interpolated = Literal["probabilities", "logits", "labels"]


@dataclass(frozen=True)
class Call:
    """A class of MONAI's and what it is called with.

    Attributes:
        name: of the class.
        arguments: plain values.
    """

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class WindowPlan:
    """How windows are laid over a volume and added up, as MONAI's inferers do it.

    Attributes:
        sides: of a window along the network's axes; 0 for all of an axis; empty for all of the volume.
        overlap: share of a side, an axis each or one for all.
        gaussian: weigh a window's middle more than its border.
        sigma: of the Gaussian, share of a side.
        padding: how a volume smaller than a window is filled up.
        value: that it is filled up with where ``padding`` is ``constant``.
        slice_axis: of x, y, z, along which a network of planes is taken; None for no such.
    """

    sides: tuple[int, ...] = ()
    overlap: tuple[float, ...] = (0.25,)
    gaussian: bool = False
    sigma: float = 0.125
    padding: str = "constant"
    value: float = 0.0
    slice_axis: int | None = None


@dataclass(frozen=True)
class ExportPlan:
    """Way back to the file's grid.

    Attributes:
        interpolated: probabilities or logits, which are decided on there, or labels.
        nearest: by the nearest voxel, else as images were brought to the network's grid.
        left_out: names of steps that are not done.
    """

    interpolated: Interpolated = "probabilities"
    nearest: bool = False
    left_out: tuple[str, ...] = ()


def target(config: Config, own: Field) -> str:
    """Name of the class that an entry's ``_target_`` stands for, without the modules of MONAI that lead to it.

    Raises:
        FieldError: it is no name of MONAI's.
    """
    named = own["_target_"]
    named = Field(own.file, named.keys, config.literal(named), named.fix)
    found = _CLASS.fullmatch(named.text())
    if found is None:
        named.refuse("a class of monai.networks.nets, monai.transforms or monai.inferers; nothing else is looked up")
    return found[1]


def arguments(own: Field) -> dict[str, Field]:
    """The arguments of an entry, without the bundle language's own keys."""
    return {key: entry for key, entry in own.entries().items() if key not in _META}


def disabled(config: Config, own: Field) -> bool:
    """Whether an entry says that it is to be left out."""
    if "_disabled_" not in own:
        return False
    value = config.literal(own["_disabled_"])
    return value is True or str(value).lower() == "true"


def read_transforms(config: Config, own: Field) -> tuple[Call, ...]:
    """Steps of the preprocessing that change an image; those that only load it or change its type are left out.

    Args:
        config: of the bundle.
        own: a ``Compose``, or a list of transforms.

    Raises:
        FieldError: a transform or argument that is not in the table, or an argument that would have to be run.
    """
    steps = []
    for item in _listed(config, own):
        if disabled(config, item):
            continue
        name = target(config, item)
        if name in _NO_STEPS:
            continue
        if name not in _STEPS:
            item["_target_"].refuse(
                f"{', '.join((*_STEPS, *_NO_STEPS))}",
                "give the preprocessing yourself by settings={'preprocessing': [...]} (--set preprocessing=[...])",
            )
        legal, given = _STEPS[name], {}
        for key, entry in arguments(item).items():
            if key in _NO_ARGUMENTS:
                continue
            if key not in legal:
                entry.refuse(f"{name} with {', '.join(legal) or 'no arguments'}")
            value = Field(entry.file, entry.keys, config.literal(entry), entry.fix)
            if value.value is not None:
                given[key] = legal[key](value)
        steps.append(Call(name, given))
    return tuple(steps)


def read_windows(config: Config, own: Field, n_axes: int) -> WindowPlan:
    """How an inferer runs the network.

    Args:
        config: of the bundle.
        own: the inferer's entry.
        n_axes: of space that the network has.

    Raises:
        FieldError: another inferer than those of the table, or absurd sizes.
    """
    name = target(config, own)
    if name == "SimpleInferer":
        return WindowPlan()
    if name not in ("SlidingWindowInferer", "SliceInferer"):
        own["_target_"].refuse("SlidingWindowInferer, SliceInferer, SimpleInferer")

    def value(key: str) -> Field | None:
        entry = own.get(key)
        found = None if entry is None else Field(entry.file, entry.keys, config.literal(entry), entry.fix)
        return None if found is None or found.value is None else found

    roi, overlap, mode = value("roi_size"), value("overlap"), value("mode")
    if roi is None:
        raise FieldError(f"{own.file}: {own.keys} has no key 'roi_size'; {own.fix}")
    sides = roi.value if isinstance(roi.value, list) else [roi.value] * n_axes
    roi = Field(roi.file, roi.keys, [0 if side in (None, -1) else side for side in sides], roi.fix)
    sliced = value("spatial_dim")
    padding, sigma, cval = value("padding_mode"), value("sigma_scale"), value("cval")
    shares = () if overlap is None else overlap.items() if isinstance(overlap.value, list) else (overlap,)
    if len(shares) not in (0, 1, n_axes):
        (overlap or own).refuse(f"one number, or {n_axes}")
    return WindowPlan(
        roi.wholes(n_axes, 0, MAX_SIDE),
        tuple(share.number(0, 0.95) for share in shares) or (0.25,),
        mode is not None and mode.one_of({"constant": False, "gaussian": True}),
        0.125 if sigma is None else sigma.number(1e-3, 10),
        "constant" if padding is None else padding.one_of({mode: mode for mode in _PADDINGS}),
        0.0 if cval is None else cval.number(-1e6, 1e6),
        None if name != "SliceInferer" else 0 if sliced is None else sliced.whole(0, 2),
    )


def read_export(config: Config, own: Field | None) -> tuple[ExportPlan, bool | None]:
    """Read how outputs go back to the file, and whether the bundle decides by regions (sigmoid); None: not at all.

    Only what stands there as plain values is looked at, the rest is never run: it is named in ``left_out``.

    Raises:
        FieldError: a threshold other than 0.5.
    """
    regions: bool | None = None
    interpolated: Interpolated | None = None
    activated = decided = nearest = False
    left_out = []
    for item in _literal_items(config, own):
        try:
            name = target(config, item)
        except FieldError:
            left_out.append(str(item.value.get("_target_"))[:60] if isinstance(item.value, dict) else item.keys)
            continue
        if name == "Activationsd":
            activated = True
            if _first(config, item, "sigmoid") is True:
                regions = True
            elif _first(config, item, "softmax") is True:
                regions = False
        elif name == "AsDiscreted":
            decided = True
            threshold = _first(config, item, "threshold")
            if isinstance(threshold, int | float) and not isinstance(threshold, bool):
                if threshold != 0.5:
                    item["threshold"].refuse("0.5", "give 0.5 by settings, and change masks of another threshold after")
                regions = True
            elif _first(config, item, "argmax") is True:
                regions = False
        elif name == "Invertd":
            interpolated = "labels" if decided else "probabilities" if activated else "logits"
            nearest = _first(config, item, "nearest_interp") is not False
        elif name not in _NO_EXPORT:
            left_out.append(name)
    chosen: Interpolated = interpolated or "probabilities"
    return ExportPlan(chosen, nearest or chosen == "labels", tuple(left_out[:20])), regions


def _first(config: Config, item: Field, key: str) -> Any:
    """A plain argument, the first of a list; None where there is none, or code."""
    try:
        value = config.literal(item[key]) if key in item else None
    except FieldError:
        return None
    return value[0] if isinstance(value, list) and value else value


def _listed(config: Config, own: Field) -> list[Field]:
    """Transforms of a ``Compose`` or a list, references to lists of them followed."""
    value = own.value
    if isinstance(value, dict):
        if target(config, own) != "Compose":
            return [own]
        return _listed(config, own["transforms"])
    if isinstance(value, str):
        return [item for name in _names(own) for item in _listed(config, config.entry(name))]
    return own.items()


def _names(own: Field) -> list[str]:
    """Of ``@a``, ``$@a`` or ``$@a + @b``."""
    if not re.fullmatch(r"\$?\s*@\w+(?:\s*\+\s*@\w+){0,20}\s*", own.value):
        own.refuse("a list of transforms, @name, or @name + @name; code in a bundle is never run")
    return re.findall(r"@(\w+)", own.value)


def _literal_items(config: Config, own: Field | None) -> list[Field]:
    """Entries of the postprocessing; none where they are code."""
    try:
        return [] if own is None else [item for item in _listed(config, own) if not disabled(config, item)]
    except FieldError:
        return []


def _numbers(low: float | int, high: float | int) -> Check:
    """One number, or a list of them."""
    return lambda own: (
        [item.number(low, high) for item in own.items()] if isinstance(own.value, list) else own.number(low, high)
    )


def _wholes(low: int, high: int) -> Check:
    """One whole number, or two or three."""
    return lambda own: (
        [item.whole(low, high) for item in own.items()[:4]] if isinstance(own.value, list) else own.whole(low, high)
    )


def _word(*legal: str) -> Check:
    """One of some words, or a list of one."""
    table = {word: word for word in legal}
    return lambda own: own.items(1)[0].one_of(table) if isinstance(own.value, list) else own.one_of(table)


def _mode(own: Field) -> Any:
    """Of an interpolation: its name, or the order of a spline; or a list of one."""
    if isinstance(own.value, list):
        own = own.items(1)[0]
    return own.one_of({mode: mode for mode in _INTERPOLATIONS}) if isinstance(own.value, str) else own.whole(0, 5)


def _axcodes(own: Field) -> str:
    letters = own.text()
    pairs = {frozenset("LR"), frozenset("AP"), frozenset("IS")}
    if len(letters) != 3 or {pair for pair in pairs for letter in letters if letter in pair} != pairs:
        own.refuse("three letters, one each of L R, A P and I S, such as RAS")
    return letters


def _truth(own: Field) -> bool:
    own = own.items(1)[0] if isinstance(own.value, list) else own
    return own.truth()


def _usual_axes(own: Field) -> None:
    if own.value != [["L", "R"], ["P", "A"], ["I", "S"]]:
        own.refuse("[[L, R], [P, A], [I, S]], or none")


_INTERPOLATIONS = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", "area")
_PADDINGS = ("constant", "reflect", "replicate", "circular")
_EDGES = ("constant", "edge", "reflect", "symmetric", "minimum", "maximum", "mean", "median", "wrap")
_number = _numbers(-MAX_FACTOR, MAX_FACTOR)
_NO_STEPS = (
    "LoadImaged", "EnsureChannelFirstd", "AddChanneld", "AsChannelFirstd", "EnsureTyped", "CastToTyped", "ToTensord",
    "ToDeviced", "Identityd",
)  # fmt: skip
"""The image is there, channels first, as float32."""
_NO_ARGUMENTS = ("keys", "allow_missing_keys", "lazy", "dtype", "source_key", "start_coord_key", "end_coord_key",
                 "ensure_same_shape", "meta_keys", "meta_key_postfix", "update_meta")  # fmt: skip
_NO_EXPORT = ("SaveImaged", "EnsureTyped", "CastToTyped", "ToTensord", "ToDeviced", "Identityd", "DeleteItemsd")
_STEPS: Mapping[str, Mapping[str, Check]] = {
    "Orientationd": {"axcodes": _axcodes, "as_closest_canonical": Field.truth, "labels": _usual_axes},
    "Spacingd": {
        "pixdim": _numbers(1e-3, 1e3),
        "mode": _mode,
        "padding_mode": _word("border", "zeros", "reflection"),
        "align_corners": _truth,
        "diagonal": Field.truth,
        "scale_extent": Field.truth,
        "recompute_affine": Field.truth,
    },
    "NormalizeIntensityd": {
        "subtrahend": _number,
        "divisor": _number,
        "nonzero": Field.truth,
        "channel_wise": Field.truth,
    },
    "ScaleIntensityd": {"minv": _number, "maxv": _number, "factor": _number, "channel_wise": Field.truth},
    "ScaleIntensityRanged": {
        "a_min": _number,
        "a_max": _number,
        "b_min": _number,
        "b_max": _number,
        "clip": Field.truth,
    },
    "ScaleIntensityRangePercentilesd": {
        "lower": _numbers(0, 100),
        "upper": _numbers(0, 100),
        "b_min": _number,
        "b_max": _number,
        "clip": Field.truth,
        "relative": Field.truth,
        "channel_wise": Field.truth,
    },
    "Resized": {
        "spatial_size": _wholes(-1, MAX_SIDE),
        "size_mode": _word("all", "longest"),
        "mode": _mode,
        "align_corners": _truth,
        "anti_aliasing": _truth,
    },
    "CropForegroundd": {
        "margin": _wholes(0, MAX_SIDE),
        "k_divisible": _wholes(1, MAX_SIDE),
        "allow_smaller": Field.truth,
        "mode": _word(*_EDGES),
    },
    "DivisiblePadd": {"k": _wholes(1, MAX_SIDE), "mode": _word(*_EDGES), "method": _word("symmetric", "end")},
    "SpatialPadd": {"spatial_size": _wholes(-1, MAX_SIDE), "mode": _word(*_EDGES), "method": _word("symmetric", "end")},
    "SqueezeDimd": {"dim": lambda own: own.whole(-1, 3)},
}
