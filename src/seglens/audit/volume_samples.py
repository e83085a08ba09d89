"""A bounded part of a volume as a network is shown it: slices of a plane network, windows of a volume network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seglens.activations.volume_tokens import labels_at
from seglens.cohorts.case import Case
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.network_volume import NetworkVolume
from seglens.cohorts.normalisation_groups import GroupMember, read_group
from seglens.cohorts.normalising import Intensities
from seglens.cohorts.slice_set import evenly_spaced
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.prediction import preprocessing_of
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.windows import margins_of, padding_of, window_starts
from seglens.shapes import BrainMasks, Extent, Images, Masks

MAX_SLICES = 24
"""Of a volume, evenly spaced over those with a foreground."""
MAX_WINDOWS = 8
"""Of a volume, evenly spaced over those that tile it once."""
MIN_FOREGROUND = 0.02
"""Share of a slice that is foreground, for it to be looked at."""

Change = Callable[[Float32[np.ndarray, "C D H W"], tuple[float, ...]], Float32[np.ndarray, "C D H W"]]
"""From a case's raw voxels and their spacing (slices, rows, columns, mm; empty where unknown) to others."""


@dataclass(frozen=True, eq=False)
class VolumeSamples:
    """Some samples of one volume.

    Attributes:
        volume: its id.
        patient: whose.
        stack: what the network is shown [n C D H W], on the CPU.
        inside: foreground [n D H W].
        masks: labels [n D H W]; None where they were not asked for.
        spacing_mm: of the network's grid: slices, rows, columns; empty where the files do not say.
    """

    volume: str
    patient: str
    stack: Images
    inside: BrainMasks
    masks: Masks | None
    spacing_mm: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.stack)

    def images(self, rows: Sequence[int]) -> Images:
        """Samples of these numbers."""
        return self.stack[list(rows)]


@dataclass(frozen=True, eq=False)
class SampleReader:
    """Reads volumes as a model is shown them.

    Attributes:
        model: a segmenter that knows its preprocessing, or a model of others of one fold.

    Raises:
        ValueError: a model of several folds, or a segmenter that does not say how its slices are made of files.
    """

    model: Segmenter | OpenedModel

    def __post_init__(self) -> None:
        if isinstance(self.model, Segmenter):
            preprocessing_of(self.model)
        else:
            _ = self.model.segmenter

    @property
    def segmenter(self) -> Segmenter:
        """The network."""
        return self.model if isinstance(self.model, Segmenter) else self.model.segmenter

    def read(self, unit: Sequence[Case], *, with_masks: bool = False, change: Change | None = None) -> VolumeSamples:
        """Read a part of a volume.

        Args:
            unit: its cases: one file, or all 2-D files of a patient.
            with_masks: read their masks too.
            change: of the raw voxels, before anything is normalised.

        Raises:
            VolumeError: whatever is wrong with the files.
            ValueError: nothing in the volume is foreground, or it cannot be shown to the network.
        """
        if isinstance(self.model, Segmenter):
            return _slices(self.model, unit, with_masks=with_masks, change=change)
        if len(unit) > 1:
            raise ValueError(
                f"{unit[0].volume} lies in {len(unit)} files of one slice each, and the model takes volumes; give "
                "NIfTI files, or a model of slices"
            )
        volume = self.model.read(unit[0], with_mask=with_masks)
        if change is not None:
            volume = replace(volume, values=change(volume.values, volume.spacing_mm))
        return _windows(self.model, volume)


def _slices(segmenter: Segmenter, unit: Sequence[Case], *, with_masks: bool, change: Change | None) -> VolumeSamples:
    preprocessing = preprocessing_of(segmenter)
    parts = read_group(unit, preprocessing, segmenter.labels, with_masks=with_masks)
    if change is not None:
        parts = _changed(parts, change, preprocessing.clip_percentiles)
    places = [
        (number, depth)
        for number, part in enumerate(parts)
        if part.scales
        for depth in np.flatnonzero(part.foreground.mean((1, 2)) >= MIN_FOREGROUND).tolist()
    ]
    if not places:
        raise ValueError(
            f"{unit[0].volume}: no slice has a foreground (rule {preprocessing.foreground}) of at least "
            f"{MIN_FOREGROUND:.0%}: the volume is empty or nearly so; look at its file"
        )
    chosen = [places[place] for place in evenly_spaced(len(places), MAX_SLICES)]
    made = [
        part.prepared([depth for owner, depth in chosen if owner == number])
        for number, part in enumerate(parts)
        if any(owner == number for owner, _ in chosen)
    ]
    images, masks, inside = (torch.cat(tensors) for tensors in zip(*made, strict=True))
    first = parts[0]
    zoom = max(first.shape[1:]) / first.size
    spacing: tuple[float, ...] = ()
    if first.spacing_mm is not None:
        rows, columns = first.spacing_mm
        spacing = ((first.voxel_mm or (1.0,))[0], rows * zoom, columns * zoom)
    return VolumeSamples(unit[0].volume, unit[0].patient, images, inside, masks if with_masks else None, spacing)


def _changed(parts: Sequence[GroupMember], change: Change, clip_percentiles: tuple[float, float]) -> list[GroupMember]:
    """The parts of a unit with other voxels, and what normalises these; what is not foreground stays as it is."""
    changed = []
    for part in parts:
        spacing = part.voxel_mm or (() if part.spacing_mm is None else (1.0, *part.spacing_mm))
        values = change(np.stack(part.sequences), spacing)
        changed.append([np.where(part.foreground, new, old) for new, old in zip(values, part.sequences, strict=True)])
    foreground = [part.foreground for part in parts]
    if not any(inside.any() for inside in foreground):
        return list(parts)
    scales = tuple(Intensities.of(values, foreground, clip_percentiles) for values in zip(*changed, strict=True))
    return [replace(part, sequences=own, scales=scales) for part, own in zip(parts, changed, strict=True)]


def _windows(model: OpenedModel, volume: CaseVolume) -> VolumeSamples:
    prepared = model.prepare(volume)
    patch = model.window(prepared.extent)
    whole = torch.from_numpy(np.ascontiguousarray(prepared.values))
    padded = model.tiling.padded(whole, patch)
    real = functional.pad(torch.ones(prepared.extent), margins_of(prepared.extent, patch)) > 0
    axes = [
        list(range(n)) if side == 1 else window_starts(n, side, 1.0)
        for n, side in zip(padded.shape[1:], patch, strict=True)
    ]
    starts = list(product(*axes))
    most = MAX_SLICES if patch[0] == 1 else MAX_WINDOWS
    boxes = [_box(starts[place], patch) for place in evenly_spaced(len(starts), most)]
    masks = None
    if volume.mask is not None:
        masks = torch.stack([_labels(box, prepared, volume, patch) for box in boxes])
    case = volume.case
    return VolumeSamples(
        case.volume,
        case.patient,
        torch.stack([padded[(slice(None), *box)] for box in boxes]).contiguous(),
        torch.stack([real[box] for box in boxes]),
        masks,
        tuple(prepared.spacing_mm) if len(prepared.spacing_mm) == 3 else (),
    )


def _box(start: tuple[int, ...], patch: Extent) -> tuple[slice, slice, slice]:
    z, y, x = (slice(first, first + side) for first, side in zip(start, patch, strict=True))
    return z, y, x


def _labels(box: tuple[slice, slice, slice], prepared: NetworkVolume, volume: CaseVolume, patch: Extent) -> Tensor:
    """Labels [D H W] at the voxels of a window; background in the padding."""
    front, _ = padding_of(prepared.extent, patch)
    axes: list[NDArray[np.int64]] = [
        np.arange(along.start, along.stop) - first for along, first in zip(box, front, strict=True)
    ]
    places = np.stack([axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")], 1)
    inside = np.all((places >= 0) & (places < np.array(prepared.extent)), 1)
    labels = np.where(inside, labels_at(places.astype(np.float64), prepared, volume), 0)
    return torch.from_numpy(labels.astype(np.uint8).reshape(patch))
