"""A case's pixels, and all that is wrong with its files: one reading for the check and for preprocessing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.resampling import onto_grid
from seglens.cohorts.slice_stack import Stack, grid_problem, map_mask, read_stacks
from seglens.cohorts.volumes import VolumeError


@dataclass(frozen=True, eq=False)
class CaseContent:
    """Pixels, faults and hashes of a case.

    Attributes:
        stacks: by sequence, those that could be read and lie on one grid.
        mask: labels [D H W]; None where it was not asked for or cannot be used.
        faults: what keeps the case out.
        notes: what was waived because the case's `Reading` says so, and what was done instead.
        sha256: of each file that could be read.
    """

    stacks: Mapping[str, Stack]
    mask: NDArray[np.uint8] | None
    faults: tuple[VolumeError, ...]
    notes: tuple[VolumeError, ...]
    sha256: Mapping[Path, str]


def read_contents(
    case: Case, sequences: Sequence[str], labels: Mapping[int, str], *, with_mask: bool = True
) -> CaseContent:
    """Read every file of a case to its end.

    Args:
        case: whose files.
        sequences: which must be there; the first one that can be read gives the grid.
        labels: of the cohort.
        with_mask: the mask must be there too.
    """
    return _Reader(case, labels).read(sequences, with_mask=with_mask)


def read_case(
    case: Case, sequences: Sequence[str], labels: Mapping[int, str], *, with_mask: bool = True
) -> CaseContent:
    """As `read_contents`, of a case with which nothing is wrong.

    Raises:
        VolumeError: the first thing that is wrong; `check_cohort` lists all.
    """
    content = read_contents(case, sequences, labels, with_mask=with_mask)
    if content.faults:
        raise content.faults[0]
    return content


class _Reader:
    """Reads one case; what is wrong is gathered, not raised."""

    def __init__(self, case: Case, labels: Mapping[int, str]):
        self.case = case
        self.labels = labels
        self.faults: list[VolumeError] = []
        self.notes: list[VolumeError] = []
        self.sha256: dict[Path, str] = {}

    def read(self, sequences: Sequence[str], *, with_mask: bool) -> CaseContent:
        stacks = self._images(sequences)
        first = next(((self.case.images[name].path, stack) for name, stack in stacks.items()), None)
        for name, stack in list(stacks.items())[1:]:
            assert first is not None
            placed = self._on_grid(self.case.images[name].path, stack, first, nearest=False)
            if placed is None:
                del stacks[name]
            else:
                stacks[name] = placed
        mask = self._mask(first) if with_mask else None
        return CaseContent(stacks, mask, tuple(self.faults), tuple(self.notes), self.sha256)

    def _images(self, sequences: Sequence[str]) -> dict[str, Stack]:
        """By sequence, in their order; files with several channels are read once."""
        own = Path(self.case.id)
        images = self.case.images
        found: dict[str, Stack] = {}
        read: set[Path] = set()
        for sequence in sequences:
            if sequence not in images:
                what, fix = f"it has no {sequence}", "add its file, or read the cohort without that sequence"
                self.faults.append(VolumeError(own, "missing_sequence", what, fix))
            elif (path := images[sequence].path) not in read:
                read.add(path)
                names = [name for name in sequences if name in images and images[name].path == path]
                stacks = self._file([images[name] for name in names], mask=False)
                found |= dict(zip(names, stacks, strict=False))  # no stack where the file cannot be read
        return {sequence: found[sequence] for sequence in sequences if sequence in found}

    def _mask(self, first: tuple[Path, Stack] | None) -> NDArray[np.uint8] | None:
        ref = self.case.mask
        if ref is None:
            what = "it has no mask"
            fix = "add its file or leave out the case; of a cohort that has no masks say so (labelled: false)"
            self.faults.append(VolumeError(Path(self.case.id), "no_mask", what, fix))
            return None
        read = self._file([ref], mask=True)
        placed = self._on_grid(ref.path, read[0], first, nearest=True) if read and first else None
        for stack in read:  # its values are looked at on whatever grid it is
            try:
                values = (placed or stack).values
                mapped = map_mask(ref.path, values, self.case.mask_values, self.labels, self.case.mask_threshold)
            except VolumeError as fault:
                self.faults.append(fault)
            else:
                return mapped if placed else None
        return None

    def _file(self, refs: Sequence[ImageRef], *, mask: bool) -> list[Stack]:
        """Its stacks; none where it cannot be read."""
        reading = self.case.reading
        zero = reading.nonfinite == "zero" and not mask
        try:
            stacks = read_stacks(refs, constant=mask, reading=reading, zero_nonfinite=zero)
        except VolumeError as fault:
            self.faults.append(fault)
            return []
        path = refs[0].path
        self.sha256[path] = stacks[0].sha256
        self.notes += stacks[0].notes
        for stack in stacks:
            if stack.n_zeroed:
                what = f"{stack.n_zeroed} of {stack.values.size} voxels are NaN or infinite and were set to 0"
                self.notes.append(VolumeError(path, "nonfinite_zeroed", what, "mend the file if they matter"))
        return stacks

    def _on_grid(self, path: Path, stack: Stack, first: tuple[Path, Stack], *, nearest: bool) -> Stack | None:
        """The stack on the first one's grid, resampled where that is allowed; None where it cannot be."""
        first_path, reference = first
        problem = grid_problem(path, stack, reference, first_path)
        if problem is None:
            return stack
        if self.case.reading.resample and stack.affine is not None and reference.affine is not None:
            try:
                placed, text = onto_grid(path, stack, reference, nearest=nearest)
            except VolumeError as fault:
                self.faults.append(fault)
                return None
            what, fix = (
                f"was resampled to the grid of {first_path.name}: {problem.what}{text}",
                "nothing, if it is meant",
            )
            self.notes.append(VolumeError(path, "resampled", what, fix))
            return placed
        self.faults.append(problem)
        return None
