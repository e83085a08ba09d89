"""Description of a network of one's own: what it is shown and says, as plain values; it names no code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from seglens.foreign.bundle_config import Config
from seglens.foreign.bundle_steps import Call, ExportPlan, WindowPlan, read_transforms
from seglens.foreign.bundles import MAX_CHANNELS, MAX_HEADS, MAX_NAME, BundlePlan, refuse_absurd
from seglens.foreign.json_fields import Field, FieldError
from seglens.runtime.suggestions import did_you_mean

T = TypeVar("T")
DESCRIPTIONS = ("seglens.json", "seglens.yaml", "seglens.yml")
WEIGHTS = "model.safetensors"
MAX_PLACES = 256
MAX_SIDE = 4096
MAX_CODE = 65535
LAYOUTS = ("BCHW", "BHWC", "BNC", "BCDHW", "BDHWC")
KEYS = (
    "architecture", "settings", "weights", "dimensions", "sequences", "labels", "decision", "orientation", "spacing_mm",
    "intensities", "preprocessing", "window", "overlap", "gaussian", "slice_axis", "hookpoints",
)  # fmt: skip
CODE = ("module", "_target_", "auto_map", "class", "function", "import", "imports", "code")
_FRIENDLY = ("orientation", "spacing_mm", "intensities")
_FIX = "correct the description, or give the value by settings={'KEY': ...} (--set KEY=...)"
_NO_CODE = (
    "leave it out: give the function yourself by --module package.module:function (in Python "
    "open_model(folder, network=function)), or install a package that adds a row to seglens.architectures and name it "
    "by architecture"
)


@dataclass(frozen=True)
class Place:
    """Where a network is opened, as its description says.

    Attributes:
        module: dotted path inside the network.
        layout: axes of its output; "" for channels first.
        item: of a tuple; None where it gives a tensor.
        grid: of ``BNC``.
    """

    module: str
    layout: str = ""
    item: int | None = None
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class OwnPlan:
    """Contents of a description.

    Attributes:
        architecture: a row of an installed package; "" where the user gives the network's function.
        settings: of the network.
        weights: name of a file beside the description.
        dimensions: axes of space of the network.
        places: name to place, in the order in which a forward pass reaches them; empty: those of the row.
        steps: what is done before, around and after the network, as of a bundle.
    """

    architecture: str
    settings: Mapping[str, Any]
    weights: str
    dimensions: int
    places: Mapping[str, Place]
    steps: BundlePlan


def own_description(folder: Path) -> Path | None:
    """The description in a folder of a network of one's own; None where there is none."""
    return next((found for name in DESCRIPTIONS if (found := folder / name).is_file()), None)


def read_own(folder: Path, settings: Mapping[str, Any] | None = None) -> OwnPlan:
    """Read a description; nothing that it names is imported.

    Args:
        folder: with ``seglens.json`` or ``seglens.yaml``.
        settings: key of the description to a value in its place; ``#`` leads inside.

    Raises:
        FieldError: by key, with what is legal and what to do: an unknown key, one that names code, or absurd values.
    """
    file = own_description(folder)
    if file is None:
        raise FieldError(f"{folder}: holds no {DESCRIPTIONS[0]}; write the description of the network there")
    config = Config.read(file, settings)
    own = Field(file, "", dict(config.root), _FIX)
    for key, entry in own.entries().items():
        if key in CODE:
            entry.refuse("no name of code: nothing that a file names is imported or called", _NO_CODE)
        if key not in KEYS:
            _unknown(own, key, KEYS)
    dimensions = _or(own, "dimensions", 3, lambda field: field.whole(2, 3))
    decision = _or(own, "decision", "classes", lambda field: field.one_of({name: name for name in _DECISIONS}))
    codes, heads = _labels(own["labels"], regions=decision != "classes")
    channels = tuple(item.text()[:MAX_NAME] for item in own["sequences"].items())
    if not 1 <= len(channels) <= MAX_CHANNELS:
        own["sequences"].refuse(f"1 to {MAX_CHANNELS} names")
    network: dict[str, Any] = _or(own, "settings", {}, _plain)
    row = _or(own, "architecture", "", lambda field: _name(field, "the name of a row of seglens.architectures"))
    plan = BundlePlan(
        folder.resolve().name[:200],
        "",
        Call(row or "own", network),
        dimensions,
        channels,
        heads,
        decision != "classes",
        tuple(range(len(heads))),
        codes,
        decision == "nested",
        _transforms(config, own),
        _windows(own, dimensions),
        ExportPlan(),
    )
    weights = _or(own, "weights", WEIGHTS, _file_name)
    return OwnPlan(row, network, weights, dimensions, _places(own), plan)


_DECISIONS = ("classes", "regions", "nested")


def _or(own: Field, key: str, absent: T, read: Callable[[Field], T]) -> T:
    """Value of a key, or the one for none."""
    found = own.get(key)
    return absent if found is None else read(found)


def _unknown(own: Field, key: str, legal: tuple[str, ...]) -> NoReturn:
    raise FieldError(
        f"{own.file}: {own.keys + '.' if own.keys else ''}{key[:80]!r} is no key of a description; "
        f"{did_you_mean(key, legal)}legal: {', '.join(legal)}; correct it"
    )


def _known(own: Field, legal: tuple[str, ...]) -> dict[str, Field]:
    entries = own.entries()
    for key in entries:
        if key not in legal:
            _unknown(own, key, legal)
    return entries


def _plain(own: Field) -> dict[str, Any]:
    refuse_absurd(own)
    return dict(own.value) if isinstance(own.value, dict) else own.refuse("an object")


def _name(own: Field, what: str) -> str:
    text = own.text()
    return text if len(text) <= MAX_NAME and text.isprintable() else own.refuse(what)


def _file_name(own: Field) -> str:
    text = own.text()
    if Path(text).name != text or "\\" in text or text in (".", ".."):
        own.refuse("the name of a file beside the description, without a folder")
    return text


def _labels(own: Field, *, regions: bool) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Values that are written and names, an output each: a list of names, or an object of value to name."""
    first = int(regions)
    if isinstance(own.value, list):
        entries = {str(value): item for value, item in enumerate(own.items(), first)}
    else:
        entries = own.entries()
    codes = []
    for key, entry in entries.items():
        if not key.isdecimal() or len(key) > 5 or not first <= int(key) <= MAX_CODE:
            entry.refuse(f"a name whose key is the value that is written, {first} to {MAX_CODE}")
        codes.append(int(key))
    if not first < len(codes) + first <= MAX_HEADS + first or len(codes) < 2 - first:
        own.refuse(f"{2 - first} to {MAX_HEADS} names, an output of the network each, in its order")
    if len(set(codes)) < len(codes) or (not regions and codes[0] != 0):
        own.refuse("different values, 0 first: the background's" if not regions else "different values")
    return tuple(codes), tuple(_name(entry, f"a name of at most {MAX_NAME} characters") for entry in entries.values())


def _transforms(config: Config, own: Field) -> tuple[Call, ...]:
    """Steps of the preprocessing: of the three short keys, or as a bundle has them."""
    given = own.get("preprocessing")
    if given is not None:
        if short := [key for key in _FRIENDLY if own.get(key) is not None]:
            given.refuse(f"preprocessing, or {', '.join(_FRIENDLY)}; {', '.join(short)} stands beside it")
        return read_transforms(config, config.entry("preprocessing"))
    steps: list[dict[str, Any]] = []
    if (letters := own.get("orientation")) is not None:
        steps.append({"_target_": "Orientationd", "axcodes": letters.value})
    if (spacing := own.get("spacing_mm")) is not None:
        sizes = [item.number(1e-3, 1e3) for item in spacing.items(3)]
        steps.append({"_target_": "Spacingd", "pixdim": sizes, "mode": "bilinear"})
    if (rule := own.get("intensities")) is not None:
        steps.append(_intensities(rule))
    found: list[Call] = []
    for key, step in zip([key for key in _FRIENDLY if own.get(key) is not None], steps, strict=True):
        found += read_transforms(config, Field(own.file, key, step, own.fix))
    return tuple(found)


def _intensities(own: Field) -> dict[str, Any]:
    """The transform of a rule, channel by channel."""
    rule = own["rule"].one_of({name: name for name in ("quantiles", "range", "zscore")})
    if rule == "zscore":
        entries = _known(own, ("rule", "nonzero"))
        nonzero = "nonzero" in entries and entries["nonzero"].truth()
        return {"_target_": "NormalizeIntensityd", "nonzero": nonzero, "channel_wise": True}
    _known(own, ("rule", "low", "high", "to", "clip"))
    ends = (0.0, 1.0) if rule == "quantiles" else (-1e9, 1e9)
    low, high = own["low"].number(*ends), own["high"].number(*ends)
    if low >= high:
        own["high"].refuse(f"a number above low, {low:g}")
    target = own.get("to")
    bottom, top = (0.0, 1.0) if target is None else [item.number(-1e9, 1e9) for item in target.items(2)]
    clip = own.get("clip")
    shared = {"b_min": bottom, "b_max": top, "clip": True if clip is None else clip.truth()}
    if rule == "range":
        return {"_target_": "ScaleIntensityRanged", "a_min": low, "a_max": high, **shared}
    percents = {"lower": 100 * low, "upper": 100 * high, "channel_wise": True}
    return {"_target_": "ScaleIntensityRangePercentilesd", **percents, **shared}


def _windows(own: Field, dimensions: int) -> WindowPlan:
    """How the network is run: on all of a volume in one pass, or through windows."""
    window, axis = own.get("window"), own.get("slice_axis")
    if axis is not None and dimensions == 3:
        axis.refuse("none: a network of three dimensions sees volumes")
    whole = window is None or window.value == "whole"
    sides = () if window is None or whole else window.wholes(dimensions, 1, MAX_SIDE)
    gaussian = own.get("gaussian")
    return WindowPlan(
        sides or ((0, 0) if dimensions == 2 else ()),
        (_or(own, "overlap", 0.5, lambda field: field.number(0, 0.95)),),
        gaussian is not None and gaussian.truth(),
        slice_axis=None if dimensions == 3 else 2 if axis is None else axis.whole(0, 2),
    )


def _places(own: Field) -> dict[str, Place]:
    """Hookpoints: name to a module's path, or to an object of module, layout, item and grid."""
    found = own.get("hookpoints")
    if found is None:
        return {}
    entries = found.entries()
    if not 0 < len(entries) <= MAX_PLACES:
        found.refuse(f"1 to {MAX_PLACES} hookpoints")
    return {_name_of(found, name): _place(entry) for name, entry in entries.items()}


def _name_of(own: Field, name: str) -> str:
    return name if name.isidentifier() and len(name) <= MAX_NAME else own.refuse("names of letters, digits and _")


def _place(own: Field) -> Place:
    path = "a module's path inside the network, such as encoder.2"
    if isinstance(own.value, str):
        return Place(_name(own, path))
    entries = _known(own, ("module", "layout", "item", "grid"))
    return Place(
        _name(own["module"], path),
        entries["layout"].one_of({layout: layout for layout in LAYOUTS}) if "layout" in entries else "",
        _or(own, "item", None, lambda field: field.whole(0, 64)),
        _or(own, "grid", (), lambda field: field.wholes(3, 1, MAX_SIDE)),
    )
