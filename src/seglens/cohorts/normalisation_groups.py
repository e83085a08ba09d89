"""The unit of normalisation: a volume, or all 2-D slices of a patient, read and scaled together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.case_reader import read_case
from seglens.cohorts.foreground import RULES, is_stripped_brain
from seglens.cohorts.normalising import Intensities, resize
from seglens.cohorts.preprocessing import Preprocessing
from seglens.shapes import BrainMasks, Images, Masks, with_depth


@dataclass(frozen=True, eq=False)
class GroupMember:
    """The slices of one case, read and ready to be shown to a network.

    Attributes:
        case: whose.
        sequences: each [D H W].
        masks: [D H W] labels; all background where they were not asked for.
        foreground: [D H W].
        scales: one a sequence, the same for all parts of a unit; empty where the unit has no foreground.
        size: side of a slice as the network sees it.
        spacing_mm: between rows, between columns; None where the file does not say.
        voxel_mm: between slices, rows and columns; None of a 2-D file.
        sha256: of each file.
    """

    case: Case
    sequences: list[NDArray[np.float32]]
    masks: NDArray[np.uint8]
    foreground: NDArray[np.bool_]
    scales: tuple[Intensities, ...]
    size: int
    spacing_mm: tuple[float, float] | None
    voxel_mm: tuple[float, float, float] | None
    sha256: Mapping[Path, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W."""
        return self.foreground.shape

    def position(self, slice_number: int) -> int:
        """The place of a slice in its volume."""
        return slice_number if self.case.position is None else self.case.position

    def prepared(self, chosen: Sequence[int] | NDArray[np.int64]) -> tuple[Images, Masks, BrainMasks]:
        """Normalise and resize some of its slices: what training, evaluation and prediction alike show a network.

        Args:
            chosen: numbers of slices; the unit must have a foreground.

        Returns:
            Slices: images [b C 1 size size] float32, masks [b 1 size size] uint8, foreground [b 1 size size] bool.
        """
        inside = self.foreground[chosen]
        pairs = zip(self.scales, self.sequences, strict=True)
        images = np.stack([scale.normalise(values[chosen], inside) for scale, values in pairs], axis=1)
        resized, masks, foreground = resize(
            torch.from_numpy(images), torch.from_numpy(self.masks[chosen]), torch.from_numpy(inside), self.size
        )
        return with_depth(resized, 5), with_depth(masks, 4), with_depth(foreground, 4)


def groups_of(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each volume together, in order of the first."""
    units: dict[str, list[Case]] = {}
    for case in cases:
        units.setdefault(case.volume, []).append(case)
    return [sorted(unit, key=lambda case: case.position or 0) for unit in units.values()]


def read_group(
    unit: Sequence[Case], preprocessing: Preprocessing, labels: Mapping[int, str], *, with_masks: bool = True
) -> list[GroupMember]:
    """Read the cases of a volume, find their foreground and what maps their intensities to z-scores.

    Args:
        unit: the cases.
        preprocessing: with a foreground rule, not ``auto``.
        labels: of the cohort.
        with_masks: read the masks too.

    Raises:
        VolumeError: one that cannot be read.
    """
    sequences = preprocessing.sequences
    read = [read_case(case, sequences, labels, with_mask=with_masks) for case in unit]
    pixels = [[content.stacks[sequence].values for sequence in sequences] for content in read]
    foreground = RULES[preprocessing.foreground](pixels)
    scales: tuple[Intensities, ...] = ()
    if any(inside.any() for inside in foreground):
        scales = tuple(
            Intensities.of(values, foreground, preprocessing.clip_percentiles) for values in zip(*pixels, strict=True)
        )
    return [
        GroupMember(
            case,
            values,
            np.zeros(inside.shape, np.uint8) if content.mask is None else content.mask,
            inside,
            scales,
            preprocessing.size,
            content.stacks[sequences[0]].spacing_mm,
            content.stacks[sequences[0]].voxel_mm,
            content.sha256,
        )
        for case, content, values, inside in zip(unit, read, pixels, foreground, strict=True)
    ]


def settled_foreground(cohort: Cohort) -> str:
    """Choose the foreground rule that ``auto`` stands for: ``brain`` where every volume is a stripped brain.

    Reads the images until one is none; `check_cohort` settles the same on its way.

    Raises:
        VolumeError: a case that cannot be read.
    """
    for unit in groups_of(cohort.cases):
        read = [read_case(case, cohort.sequences, cohort.labels, with_mask=False) for case in unit]
        if not is_stripped_brain([[content.stacks[name].values for name in cohort.sequences] for content in read]):
            return "none"
    return "brain"
