"""Statements of an nnU-Net v2 results folder about its model: ``plans.json`` and ``dataset.json``, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seglens.foreign.json_fields import Field, FieldError
from seglens.foreign.plan_network import NetworkPlan, read_network
from seglens.runtime.streams import printable

PLANS = "plans.json"
DATASET = "dataset.json"
Scheme = Literal["zscore", "ct", "none", "zero_to_one", "rgb"]
MIN_PATCH_SIDE = 2
MAX_PATCH_SIDE = 2048
MAX_PATCH_VOXELS = 2**27
MAX_MEDIAN_VOXELS = 2**31
MAX_CHANNELS = 64
MAX_LABELS = 256
MAX_INHERITANCE = 16
ANISOTROPIC = 3.0
"""Where the largest spacing is more than so many times the smallest, slices are resampled each for itself."""
_FIX = "take the file as nnU-Net v2 wrote it"
_SCHEMES: Mapping[str, Scheme] = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "zero_to_one",
    "RGBTo01Normalization": "rgb",
}
_READERS: Mapping[str, bool] = {"SimpleITKIO": False, "NibabelIO": False, "NibabelIOWithReorient": True}
_RESAMPLING_KEYS = ("is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold")
_RESAMPLINGS = {"resample_data_or_seg_to_shape": None}
_PREPROCESSORS = {"DefaultPreprocessor": None}
_LABEL_MANAGERS = {"LabelManager": None}
_ENDINGS = {".nii.gz": None, ".nii": None}
_INTENSITIES = ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality")


@dataclass(frozen=True)
class Normalisation:
    """How a channel's intensities are normalised.

    Attributes:
        scheme: by mean and spread of the image (``zscore``), or of the training set after a clip (``ct``), to 0..1 by
            the image's own range (``zero_to_one``) or by 255 (``rgb``), or not at all.
        masked: ``zscore`` looks at what is not zero only, and leaves the rest as it is.
        mean: of ``ct``; so are the others.
        spread: standard deviation.
        low: intensities are clipped to it from below.
        high: and to it from above.
    """

    scheme: Scheme
    masked: bool = False
    mean: float = 0.0
    spread: float = 1.0
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Interpolation:
    """How an array is brought to another grid.

    Attributes:
        order: of the spline, 0 to 5.
        order_z: along the coarse axis, where slices are resampled each for itself.
        separate_z: whether they are; None where the spacings decide.
    """

    order: int
    order_z: int = 0
    separate_z: bool | None = None


@dataclass(frozen=True)
class ModelPlan:
    """Expectations, steps and outputs of a configuration of a results folder. Axes are those of arrays, slices first.

    Attributes:
        dataset: name of the data set that it was trained on.
        configuration: such as ``3d_fullres``.
        channels: names, in order.
        labels: name to value or values, in the file's order, ``background`` and ``ignore`` among them.
        class_order: value that each region is written as, later ones over earlier ones; None for plain labels.
        canonical: images are turned to RAS+ first; else the file's own order of voxels is kept.
        transpose_forward: the network's axes among the file's.
        transpose_backward: the inverse.
        patch: voxels along the network's axes; two for a network that sees slices.
        spacing: mm of its grid, as many as ``patch``.
        normalisation: one a channel.
        images: how images are brought to the grid.
        logits: how logits are brought back.
        network: of the configuration.
        median_extent: slices, rows and columns of the training set's median volume in the network's grid; None where
            the plans do not say.
    """

    dataset: str
    configuration: str
    channels: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    class_order: tuple[int, ...] | None
    canonical: bool
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    normalisation: tuple[Normalisation, ...]
    images: Interpolation
    logits: Interpolation
    network: NetworkPlan
    median_extent: tuple[int, int, int] | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the network's outputs: the classes by value, or the regions in the file's order."""
        if self.class_order is not None:
            return tuple(name for name, values in self.labels.items() if name != "ignore" and set(values) != {0})
        known = [(values[0], name) for name, values in self.labels.items() if name != "ignore"]
        return tuple(name for _, name in sorted(known))


def configurations(folder: Path) -> list[str]:
    """Names of the configurations in a folder's plans.

    Raises:
        FieldError: plans that cannot be read.
    """
    return list(_plans(folder)["configurations"].entries())


def read_plan(folder: Path, configuration: str) -> ModelPlan:
    """Read a results folder's plans for one configuration; nothing that they name is imported.

    Args:
        folder: with ``plans.json`` and ``dataset.json``.
        configuration: such as ``"3d_fullres"``.

    Raises:
        FieldError: by key, with what is legal and what to do: whatever is not nnU-Net's version 2, inherits in a
            circle, names a class or function that is not in the tables, or is of absurd size.
    """
    plans = _plans(folder)
    own = _inherited(plans["configurations"], configuration)
    if (cascade := own.get("previous_stage")) is not None:
        cascade.refuse("none: a cascade needs the masks of another model", "open 3d_fullres or 3d_lowres")
    if "preprocessor_name" in own:
        own["preprocessor_name"].one_of(_PREPROCESSORS)
    n_axes = len(own["patch_size"].items())
    if n_axes not in (2, 3):
        own["patch_size"].refuse("two or three sides")
    patch = own["patch_size"].wholes(n_axes, MIN_PATCH_SIDE, MAX_PATCH_SIDE)
    network = read_network(own, n_axes)
    voxels = 1
    for side, multiple in zip(patch, network.shrinks, strict=True):
        voxels *= side
        if side % multiple:
            own["patch_size"].refuse(f"multiples of {', '.join(map(str, network.shrinks))}, as its strides need")
    if voxels > MAX_PATCH_VOXELS:
        own["patch_size"].refuse(f"at most {MAX_PATCH_VOXELS} voxels together")
    forward, backward = plans["transpose_forward"], plans["transpose_backward"]
    turns = _permutation(forward), _permutation(backward)
    if any(turns[0][turns[1][axis]] != axis for axis in range(3)):
        backward.refuse(f"the inverse of transpose_forward {list(turns[0])}")
    dataset = Field.of(folder / DATASET, _FIX)
    channels = _channels(dataset)
    labels, class_order = _labels(dataset)
    dataset["file_ending"].one_of(_ENDINGS, "convert its images to .nii.gz")
    if "label_manager" in plans:
        plans["label_manager"].one_of(_LABEL_MANAGERS, "train it by nnU-Net v2's own class")
    return ModelPlan(
        plans["dataset_name"].text(),
        configuration,
        channels,
        labels,
        class_order,
        plans["image_reader_writer"].one_of(_READERS, "convert the images to NIfTI, and train on those"),
        *turns,
        patch,
        tuple(item.number(1e-4, 1e4) for item in own["spacing"].items(n_axes)),
        _normalisation(plans, own, len(channels)),
        _interpolation(own, "data"),
        _interpolation(own, "probabilities"),
        network,
        _median_extent(plans, own, n_axes),
    )


def _median_extent(plans: Field, own: Field, n_axes: int) -> tuple[int, int, int] | None:
    """Slices of a network of planes are those of the files."""
    median, slices = own.get("median_image_size_in_voxels"), plans.get("original_median_shape_after_transp")
    if median is None or (n_axes == 2 and slices is None):
        return None
    sides = median.items(n_axes)
    if n_axes == 2 and slices is not None:
        sides = [slices.items(3)[0], *sides]
    depth, rows, columns = (max(1, round(side.number(0, 1e5))) for side in sides)
    if depth * rows * columns > MAX_MEDIAN_VOXELS:
        median.refuse(f"at most {MAX_MEDIAN_VOXELS} voxels together, not {depth} x {rows} x {columns}")
    return depth, rows, columns


def _plans(folder: Path) -> Field:
    if not (folder / PLANS).is_file():
        if any((folder / name).is_file() for name in ("plans.pkl", "model_final_checkpoint.model.pkl")):
            raise FieldError(
                f"{folder}: holds plans.pkl, of nnU-Net version 1; legal: the plans.json of version 2; train it again "
                "by nnU-Net v2, or wrap its network: Segmenter.wrap(network, ...)"
            )
        raise FieldError(f"{folder}: holds no {PLANS}; give the folder named TRAINER__PLANS__CONFIGURATION")
    plans = Field.of(folder / PLANS, _FIX)
    if "plans_per_stage" in plans or "configurations" not in plans:
        plans.refuse("configurations, as nnU-Net v2 writes them", "another version of nnU-Net wrote it: train by v2")
    return plans


def _inherited(configurations: Field, name: str) -> Field:
    """A configuration with all that it inherits put in."""
    chain: list[str] = []
    merged: dict[str, object] = {}
    following: str | None = name
    while following is not None:
        if following in chain or len(chain) > MAX_INHERITANCE:
            raise FieldError(
                f"{configurations.file}: configurations.{printable(name[:80])}.inherits_from leads round: "
                f"{' -> '.join(printable(step[:80]) for step in (*chain[:8], following))}; legal: a chain that ends; "
                f"{_FIX}"
            )
        if following not in configurations:
            known = ", ".join(printable(key[:80]) for key in list(configurations.entries())[:20])
            raise FieldError(
                f"{configurations.file}: there is no configuration {following[:80]!r}; legal: {known}; name one of them"
            )
        chain.append(following)
        own = configurations[following].entries()
        merged = {key: entry.value for key, entry in own.items()} | merged
        following = own["inherits_from"].text() if "inherits_from" in own else None
    return Field(configurations.file, f"configurations.{printable(name[:80])}", merged, configurations.fix)


def _permutation(field: Field) -> tuple[int, int, int]:
    first, second, third = field.wholes(3, 0, 2)
    if {first, second, third} != {0, 1, 2}:
        field.refuse("the axes 0, 1 and 2, each once")
    return first, second, third


def _channels(dataset: Field) -> tuple[str, ...]:
    names = dataset["channel_names" if "channel_names" in dataset else "modality"]
    entries = names.entries()
    if not 1 <= len(entries) <= MAX_CHANNELS or set(entries) != {str(number) for number in range(len(entries))}:
        names.refuse(f"1 to {MAX_CHANNELS} names under the keys 0, 1, 2, ...")
    found = tuple(entries[str(number)].text() for number in range(len(entries)))
    return tuple(name if found.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(found))


def _labels(dataset: Field) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...] | None]:
    """Name to values, and the order of regions."""
    field = dataset["labels"]
    entries = field.entries()
    if not 2 <= len(entries) <= MAX_LABELS:
        field.refuse(f"2 to {MAX_LABELS} names")
    labels: dict[str, tuple[int, ...]] = {}
    for name, entry in entries.items():
        several = isinstance(entry.value, list)
        values = tuple(item.whole(0, 65535) for item in entry.items()) if several else (entry.whole(0, 65535),)
        if not values:
            entry.refuse("a value, or some")
        labels[name] = values
    if "background" not in entries:
        field.refuse("background among them, which is 0")
    entries["background"].whole(0, 0)
    if all(len(values) == 1 for values in labels.values()):
        own = sorted(values[0] for name, values in labels.items() if name != "ignore")
        if own != list(range(len(own))) or len(own) < 2:
            field.refuse("the values 0 (background), 1, 2, ... without a gap")
        return labels, None
    regions = [name for name, values in labels.items() if name != "ignore" and set(values) != {0}]
    return labels, dataset["regions_class_order"].wholes(len(regions), 0, 65535)


def _normalisation(plans: Field, own: Field, n_channels: int) -> tuple[Normalisation, ...]:
    schemes = own["normalization_schemes"].items()
    if len(schemes) != n_channels:
        own["normalization_schemes"].refuse(f"{n_channels}, one for each channel of {DATASET}")
    masked = own["use_mask_for_norm"].items(n_channels)
    found = []
    for number, scheme in enumerate(schemes):
        kind = scheme.one_of(_SCHEMES)
        if kind != "ct":
            found.append(Normalisation(kind, masked[number].truth() and kind == "zscore"))
            continue
        key = next((name for name in _INTENSITIES if name in plans), _INTENSITIES[0])
        of_channel = plans[key][str(number)]
        low, high = (of_channel[f"percentile_{name}"].number() for name in ("00_5", "99_5"))
        if low > high:
            of_channel["percentile_00_5"].refuse(f"at most percentile_99_5, {high:g}")
        found.append(Normalisation(kind, False, of_channel["mean"].number(), of_channel["std"].number(0), low, high))
    return tuple(found)


def _interpolation(own: Field, what: str) -> Interpolation:
    """Orders and slices: an absent key is as nnU-Net's function has it; null leaves slices to the spacings."""
    own[f"resampling_fn_{what}"].one_of(_RESAMPLINGS)
    settings = own[f"resampling_fn_{what}_kwargs"].entries()
    for key, entry in settings.items():
        if key not in _RESAMPLING_KEYS:
            entry.refuse(f"no such setting; known are {', '.join(_RESAMPLING_KEYS)}")
    if "is_seg" in settings and settings["is_seg"].truth():
        settings["is_seg"].refuse("false, as for images and logits")
    if "separate_z_anisotropy_threshold" in settings:
        settings["separate_z_anisotropy_threshold"].number(ANISOTROPIC, ANISOTROPIC)
    separate = settings.get("force_separate_z")
    return Interpolation(
        settings["order"].whole(0, 5) if "order" in settings else 3,
        settings["order_z"].whole(0, 5) if "order_z" in settings else 0,
        False if separate is None else None if separate.value is None else separate.truth(),
    )
