"""Cohorts become samples for a model of others: windows of their volumes, as the model itself is shown them."""

import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from seglens.artifacts import Draft, new_artifact, read_artifact
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.network_volume import NetworkVolume
from seglens.cohorts.slice_set import ENDS, KIND, SLICE_SPACING, SliceSet, evenly_spaced, only_if_bare
from seglens.cohorts.slice_set_writer import SliceSetWriter
from seglens.cohorts.slice_shards import SliceShard
from seglens.cohorts.slices import DEFAULT_SAMPLING, NOTHING_KNOWN, UNASSIGNED, LesionFreeQuota, SliceSampling
from seglens.cohorts.volumes import VolumeError
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.windows import Placement, padding_of, windows_of
from seglens.shapes import Extent

WINDOWS_PER_VOLUME = 4
"""With a label, where the sampling does not say."""
STARTS = ("start_slice", "start_row", "start_column")
_TOWARDS = ((2, 1.0), (1, -1.0), (0, -1.0))
"""Of slices, rows and columns: axis of x, y, z in mm (RAS+), and the sign with which it leads from begin to end."""


def prepare_windows(
    model: OpenedModel,
    cohort: Cohort,
    sampling: SliceSampling = DEFAULT_SAMPLING,
    *,
    folder: Path | None = None,
    quarantined: Set[str] = frozenset(),
    sha256: Mapping[Path, str] = NOTHING_KNOWN,
    seed: int = 0,
    progress: Progress = silent,
) -> SliceSet:
    """Read a cohort's cases as a model of others does, and keep some of the windows that it would be run on.

    Of each volume the windows that show most of what is labelled and not shown yet are taken, `WINDOWS_PER_VOLUME` or
    ``slices_per_volume`` of them, and windows without a label by ``lesion_free_share``. The index tells ``position``
    (number of the window), ``start_slice``, ``start_row`` and ``start_column`` (voxels of the network's grid, negative
    in the padding), ``weight`` (windows of the volume of its kind, labelled or not, for each that was taken) and
    `slice_set.ENDS`. Labels are those of the file's voxel at each place; padding is background. Of a cohort without
    masks as many windows are taken, evenly over those that show enough.

    Args:
        model: opened, of one window's size for all volumes.
        cohort: of NIfTI files, with masks where it is ``labelled``, of the model's sequences in their order and of its
            labels.
        sampling: which windows are kept; a window needs ``minimum_foreground_share`` of voxels that are not 0.
        folder: write an artifact of kind ``slices`` there; None keeps everything in memory.
        quarantined: ids of cases to leave out.
        sha256: of files, where they are known: a file that is another by now is refused.
        seed: of the choice of windows without a label.
        progress: told of each volume.

    Raises:
        VolumeError: a case cannot be read, or its files are not those of ``sha256``.
        ValueError: other sequences or labels than the model's, windows of several sizes, or none to keep.
        ArtifactError: ``folder`` exists.
    """
    check_cohort_fits(model, cohort)
    cohort = cohort.without(quarantined)

    def prepared(draft: Draft | None) -> SliceSet:
        return _prepare(model, cohort, sampling, sha256=sha256, seed=seed, progress=progress, draft=draft)

    if folder is None:
        return prepared(None)
    inputs = {
        "cohort": cohort.name,
        "cases": [case.id for case in cohort.cases],
        "labels": {str(value): name for value, name in cohort.labels.items()},
        "preparation": model.preparation,
        "sampling": asdict(sampling),
        "seed": seed,
        **only_if_bare(labelled=cohort.labelled),
    }
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        prepared(draft)
    return SliceSet.read(read_artifact(folder, KIND))


def check_cohort_fits(model: OpenedModel, cohort: Cohort) -> None:
    """Refuse a cohort of other sequences or labels than a model's.

    Raises:
        ValueError: with both, and how to read it otherwise.
    """
    if cohort.sequences != model.sequences:
        raise ValueError(
            f"cohort {cohort.name} has the sequences {', '.join(cohort.sequences)}, the model {model.folder.name} "
            f"{', '.join(model.sequences)}; read it with these, in this order (sequences: of a study)"
        )
    if dict(cohort.labels) != dict(model.labels):
        raise ValueError(
            f"cohort {cohort.name} has the labels {dict(cohort.labels)}, the model {model.folder.name} "
            f"{dict(model.labels)}; read it with these (labels: and mask_values: of a source)"
        )


def _prepare(
    model: OpenedModel,
    cohort: Cohort,
    sampling: SliceSampling,
    *,
    sha256: Mapping[Path, str],
    seed: int,
    progress: Progress,
    draft: Draft | None,
) -> SliceSet:
    splits, quota = cohort.split_of(), LesionFreeQuota(sampling.lesion_free_share)
    writer = SliceSetWriter(len(cohort.sequences), model.patch, draft)
    for number, case in enumerate(cohort.cases):
        volume = model.read(case, with_mask=cohort.labelled)
        for path, digest in volume.sha256.items():
            if sha256.get(path, digest) != digest:
                raise VolumeError(path, "changed", "was written to since it was checked", "run again when it rests")
        windows = _Windows.of(model, volume)
        split = splits.get(case.id, UNASSIGNED)
        drawing = np.random.default_rng([seed, zlib.crc32(case.volume.encode())])
        chosen = windows.chosen(sampling, split, quota, drawing) if cohort.labelled else windows.evenly(sampling)
        if chosen:
            writer.add(windows.samples([at for at, _ in chosen]), windows.rows(case, split, chosen))
        if number == 0:
            writer.require_disk(len(cohort.cases), f"windows of {len(cohort.cases)} volumes")
        writer.close_full()
        progress(number + 1, len(cohort.cases), windows=float(len(writer)))
    if not len(writer):
        few = f"fewer than {sampling.minimum_foreground_share:g} of the voxels are not 0"
        raise ValueError(
            f"{cohort.name}: no window of {len(cohort.cases)} cases is kept: their masks hold no label, or {few}. To "
            f"keep windows without labels, raise lesion_free_share ({sampling.lesion_free_share}) to 1"
            if cohort.labelled
            else f"{cohort.name}: no window of {len(cohort.cases)} cases is kept: {few}; give other volumes"
        )
    return writer.finish(name=cohort.name, sequences=cohort.sequences, labels=cohort.labels, labelled=cohort.labelled)


@dataclass(frozen=True)
class _Windows:
    """All windows of a volume.

    Attributes:
        places: of the windows in the padded grid.
        images: the padded volume ``[C D H W]``.
        labels: on the same grid; padding is 0.
        foreground: where a channel of the file is not 0.
        front: padding before each axis.
        between: first and last voxel of the foreground along each axis, in the patient's direction; None where an axis
            of the grid is not the patient's.
        spacing_mm: of slices, rows and columns; None where it is not known.
    """

    places: Sequence[Placement]
    images: Tensor
    labels: UInt8[np.ndarray, "D H W"]
    foreground: Bool[np.ndarray, "D H W"]
    front: Extent
    between: Sequence[tuple[float, float] | None]
    spacing_mm: tuple[float | None, float | None, float | None]

    @classmethod
    def of(cls, model: OpenedModel, volume: CaseVolume) -> "_Windows":
        """Of a case, as the model lays them."""
        prepared = model.prepare(volume)
        patch = model.window(prepared.extent)
        if patch != model.patch:
            raise ValueError(
                f"{model.folder.name} runs on windows of {patch} for the volume {prepared.case} and of {model.patch} "
                "for others; a study needs one size: give the inferer of a bundle a roi_size, or a "
                "network of your own a window, by the model's settings"
            )
        front, behind = padding_of(prepared.extent, patch)
        margins = list(zip(front, behind, strict=True))
        labels, foreground = _from_file(prepared, volume)
        padded: Extent = tuple(map(sum, zip(prepared.extent, front, behind, strict=True)))  # type: ignore[assignment]
        return cls(
            list(windows_of(prepared.case, padded, patch, prepared.spacing_mm, model.tiling)),
            model.tiling.padded(torch.from_numpy(np.ascontiguousarray(prepared.values)), patch),
            np.pad(labels, margins),
            np.pad(foreground, margins),
            front,
            _between(prepared, volume, foreground),
            _three(prepared.spacing_mm),
        )

    def chosen(
        self, sampling: SliceSampling, split: str, quota: LesionFreeQuota, drawing: np.random.Generator
    ) -> list[tuple[int, float]]:
        """Numbers of the windows that are kept, in order, and the weight of each."""
        enough = self._enough(sampling)
        labelled = [number for number in enough if self.labels[self.places[number].box].any()]
        free = [number for number in enough if number not in set(labelled)]
        most = sampling.slices_per_volume or WINDOWS_PER_VOLUME
        taken = [] if sampling.lesion_free_share >= 1 else self._covering(labelled, most)
        n_free = quota.take(split, len(taken), len(free))
        drawn = drawing.permutation(len(free))[: min(n_free, most)].tolist()
        return sorted(
            [
                *((number, len(labelled) / len(taken)) for number in taken),
                *((free[at], len(free) / len(drawn)) for at in drawn),
            ]
        )

    def evenly(self, sampling: SliceSampling) -> list[tuple[int, float]]:
        """Numbers of the windows that are kept where there is no mask, in order, and the weight of each."""
        enough = self._enough(sampling)
        taken = evenly_spaced(len(enough), sampling.slices_per_volume or WINDOWS_PER_VOLUME)
        return [(enough[at], len(enough) / len(taken)) for at in taken]

    def _enough(self, sampling: SliceSampling) -> list[int]:
        """Numbers of the windows that show enough of the volume."""
        return [
            number
            for number, place in enumerate(self.places)
            if self.foreground[place.box].mean() >= sampling.minimum_foreground_share
        ]

    def _covering(self, labelled: Sequence[int], most: int) -> list[int]:
        """The windows that show most of the labels, each counted by what those before it do not show."""
        left = self.labels != 0
        taken: list[int] = []
        while len(taken) < most:
            shown = {number: int(left[self.places[number].box].sum()) for number in labelled if number not in taken}
            best = max(shown, key=lambda number: (shown[number], -number), default=None)
            if best is None or not shown[best]:
                return taken
            taken.append(best)
            left[self.places[best].box] = False
        return taken

    def samples(self, numbers: Sequence[int]) -> SliceShard:
        """Images, labels and foreground of some windows."""
        boxes = [self.places[number].box for number in numbers]
        return SliceShard(
            torch.stack([self.images[(slice(None), *box)] for box in boxes]),
            torch.from_numpy(np.stack([self.labels[box] for box in boxes])),
            torch.from_numpy(np.stack([self.foreground[box] for box in boxes])),
        )

    def rows(self, case: Case, split: str, chosen: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
        """Of the index, one of each window."""
        return [self._row(case, split, number, weight) for number, weight in chosen]

    def _row(self, case: Case, split: str, number: int, weight: float) -> dict[str, Any]:
        start = self.places[number].start
        ends = [end for axis in range(3) for end in self._ends(axis, start[axis])]
        own = [first - before for first, before in zip(start, self.front, strict=True)]
        apart, row_mm, column_mm = self.spacing_mm
        row = {"case": case.id, "patient": case.patient, "volume": case.volume, "position": number, "split": split}
        row |= {"spacing_row_mm": row_mm, "spacing_column_mm": column_mm, SLICE_SPACING: apart, "weight": weight}
        return row | dict(zip((*STARTS, *ENDS), (*own, *ends), strict=True))

    def _ends(self, axis: int, start: int) -> tuple[float | None, float | None]:
        """Where the foreground begins and ends along an axis, in voxels of a window that starts there."""
        found = self.between[axis]
        if found is None:
            return None, None
        first, last = (place + self.front[axis] - start for place in found)
        return first, last


def _from_file(
    prepared: NetworkVolume, volume: CaseVolume
) -> tuple[UInt8[np.ndarray, "d h w"], Bool[np.ndarray, "d h w"]]:
    """Label of the file's voxel at each place of the network's grid, and whether a channel is not 0 there."""
    inside = (volume.values != 0).any(0)
    given = np.zeros(inside.shape, np.uint8) if volume.mask is None else volume.mask
    labels, foreground = np.zeros(prepared.extent, np.uint8), np.zeros(prepared.extent, bool)
    depth, n_rows, n_columns = prepared.extent
    plane = np.stack(np.meshgrid(0.0, np.arange(n_rows), np.arange(n_columns), indexing="ij"), -1).reshape(-1, 3)
    most = np.subtract(given.shape, 1)
    for number in range(depth):  # places of a whole volume would take ten times its memory
        own = np.clip(np.floor(prepared.crop_places(plane + np.array([number, 0, 0])) + 0.5).astype(int), 0, most)
        z, y, x = own.T
        labels[number] = given[z, y, x].reshape(n_rows, n_columns)
        foreground[number] = inside[z, y, x].reshape(n_rows, n_columns)
    return labels, foreground


def _between(
    prepared: NetworkVolume, volume: CaseVolume, foreground: Bool[np.ndarray, "d h w"]
) -> list[tuple[float, float] | None]:
    """First and last voxel of the foreground along each axis of the grid, turned to the patient's directions."""
    steps = prepared.crop_places(np.vstack([np.zeros(3), np.eye(3)]).astype(np.float64))
    mm = (steps[1:] - steps[0])[:, ::-1] @ volume.affine[:3, :3].T  # of a step along each axis of the grid
    found: list[tuple[float, float] | None] = []
    for axis, (towards, sign) in enumerate(_TOWARDS):
        (inside,) = np.nonzero(foreground.any(tuple(other for other in range(3) if other != axis)))
        if not len(inside) or int(np.abs(mm[axis]).argmax()) != towards:
            found.append(None)
            continue
        first, last = float(inside[0]), float(inside[-1])
        found.append((first, last) if mm[axis, towards] * sign > 0 else (last, first))
    return found


def _three(spacing: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Distance of slices, rows and columns; None where a grid does not say."""
    known: list[float | None] = list(spacing)
    apart, row, column = [None] * (3 - len(known)) + known
    return apart, row, column
