"""The unit of normalisation: a volume, or all 2-D slices of a patient, read and scaled together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.case import Case
from seglens.cohorts.case_reader import read_case
from seglens.cohorts.normalising import Intensities, brains_of


@dataclass(frozen=True, eq=False)
class GroupMember:
    """The slices of one case.

    Attributes:
        case: whose.
        sequences: each [D H W].
        masks: [D H W] labels; all background where they were not asked for.
        brains: [D H W].
        spacing_mm: between rows, between columns; None where the file does not say.
        sha256: of each file.
    """

    case: Case
    sequences: list[NDArray[np.float32]]
    masks: NDArray[np.uint8]
    brains: NDArray[np.bool_]
    spacing_mm: tuple[float, float] | None
    sha256: Mapping[Path, str]

    @property
    def shape(self) -> tuple[int, ...]:
        """D, H, W."""
        return self.brains.shape

    def position(self, slice_number: int) -> int:
        """The place of a slice in its volume."""
        return slice_number if self.case.position is None else self.case.position

    def normalised(
        self, scales: Sequence[Intensities], chosen: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Some of its slices [b C H W], one scale a sequence."""
        brains = self.brains[chosen]
        pairs = zip(scales, self.sequences, strict=True)
        return np.stack([scale.normalise(values[chosen], brains) for scale, values in pairs], axis=1)


def groups_of(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each volume together, in order of the first."""
    units: dict[str, list[Case]] = {}
    for case in cases:
        units.setdefault(case.volume, []).append(case)
    return [sorted(unit, key=lambda case: case.position or 0) for unit in units.values()]


def read_group(
    unit: Sequence[Case], sequences: Sequence[str], labels: Mapping[int, str], *, with_masks: bool = True
) -> list[GroupMember]:
    """The cases of a volume.

    Raises:
        VolumeError: one that cannot be read.
    """
    read = [read_case(case, sequences, labels, with_mask=with_masks) for case in unit]
    pixels = [[content.stacks[sequence].values for sequence in sequences] for content in read]
    return [
        GroupMember(
            case,
            values,
            np.zeros(brain.shape, np.uint8) if content.mask is None else content.mask,
            brain,
            content.stacks[sequences[0]].spacing_mm,
            content.sha256,
        )
        for case, content, values, brain in zip(unit, read, pixels, brains_of(pixels), strict=True)
    ]


def scales_of(parts: Sequence[GroupMember], clip_percentiles: tuple[float, float]) -> list[Intensities]:
    """One a sequence, over the brain of the whole unit, which must not be empty."""
    brains = [part.brains for part in parts]
    return [
        Intensities.of(values, brains, clip_percentiles)
        for values in zip(*(part.sequences for part in parts), strict=True)
    ]
