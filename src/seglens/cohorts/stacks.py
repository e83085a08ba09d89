"""A case's files as stacks of axial slices, whatever kind of file they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.planes import SUFFIXES, read_plane
from seglens.cohorts.volumes import AFFINE_TOLERANCE, VolumeError, read_volume

_FRACTION_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Stack:
    """Axial slices of one file.

    Attributes:
        values: [D H W] float32; rows from anterior to posterior, columns from the patient's right to left; a 2-D file
            gives one slice, as it is.
        spacing_mm: between rows, between columns; None where the file does not say (2-D).
        affine: of the canonical volume; None for a 2-D file.
        sha256: of the file's bytes.
    """

    values: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    affine: NDArray[np.float64] | None
    sha256: str


def read_stack(ref: ImageRef, *, constant: bool = False) -> Stack:
    """Read a NIfTI, PNG or TIFF file.

    Args:
        ref: what to read.
        constant: also accept a file whose values are all the same (an empty mask).

    Raises:
        VolumeError: whatever is wrong with the file.
    """
    if ref.path.suffix.lower() in SUFFIXES:
        plane, sha256 = read_plane(ref, constant=constant)
        return Stack(plane[None], None, None, sha256)
    volume = read_volume(ref.path, constant=constant)
    return Stack(volume.axial(), (volume.spacing_mm[1], volume.spacing_mm[0]), volume.affine, volume.sha256)


def grid_problem(path: Path, stack: Stack, first: Stack, first_path: Path) -> VolumeError | None:
    """What keeps ``stack`` from lying on the grid of ``first``, if anything."""
    if stack.values.shape != first.values.shape:
        return VolumeError(
            path,
            "other_shape",
            f"its grid (slices, rows, columns) {stack.values.shape} is not {first.values.shape} of {first_path.name}",
            "resample it to that grid",
        )
    if stack.affine is not None and first.affine is not None:
        difference = float(np.abs(stack.affine - first.affine).max())
        if difference > AFFINE_TOLERANCE:
            return VolumeError(
                path,
                "other_affine",
                f"its affine differs by up to {difference:.4g} from that of {first_path.name}",
                "resample it to that grid or fix its header",
            )
    return None


def map_mask(
    path: Path, values: NDArray[np.float32], mask_values: Mapping[int, int], labels: Mapping[int, str]
) -> NDArray[np.uint8]:
    """The file's values as the cohort's labels.

    Args:
        path: the file, for messages.
        values: as read.
        mask_values: value in the file to label.
        labels: label to class name, for messages.

    Returns:
        Labels, uint8, of the shape of ``values``.

    Raises:
        VolumeError: fractions (1.0 is fine, 0.9997 is not) or values that are not in the table.
    """
    rounded = np.rint(values)
    off = np.abs(values - rounded) > _FRACTION_TOLERANCE
    if off.any():
        raise VolumeError(
            path,
            "fractional_labels",
            f"{int(off.sum())} voxels are not whole numbers, such as {values[off][0]:.6g}",
            "resample masks by nearest neighbour only",
        )
    found = np.unique(rounded).astype(np.int64).tolist()
    unknown = [value for value in found if value not in mask_values]
    if unknown:
        raise _unknown_labels(path, unknown, mask_values, labels)
    mapped = np.zeros(values.shape, np.uint8)
    for value in found:
        if mask_values[value] != 0:
            mapped[rounded == value] = mask_values[value]
    return mapped


def read_case(case: Case, sequences: Sequence[str], labels: Mapping[int, str]) -> tuple[list[Stack], NDArray[np.uint8]]:
    """A case's images, one stack a sequence, and its mask [D H W].

    Raises:
        VolumeError: the first thing that is wrong; `check_cohort` lists all.
    """
    if case.mask is None:
        raise VolumeError(Path(case.id), "no_mask", "the case has no mask", "add it or leave out the case")
    stacks: list[Stack] = []
    for sequence in sequences:
        if sequence not in case.images:
            raise VolumeError(Path(case.id), "missing_sequence", f"the case has no {sequence}", "add its file")
        stacks.append(read_stack(case.images[sequence]))
    mask = read_stack(case.mask, constant=True)
    first_path = case.images[sequences[0]].path
    paths = [*(case.images[sequence].path for sequence in sequences), case.mask.path]
    for path, stack in zip(paths[1:], [*stacks[1:], mask], strict=True):
        problem = grid_problem(path, stack, stacks[0], first_path)
        if problem is not None:
            raise problem
    return stacks, map_mask(case.mask.path, mask.values, case.mask_values, labels)


def _unknown_labels(
    path: Path, unknown: list[int], mask_values: Mapping[int, int], labels: Mapping[int, str]
) -> VolumeError:
    enhancing = next((value for value, name in labels.items() if name == "enhancing"), None)
    code = next((value for value, label in mask_values.items() if label == enhancing), None)
    other = {3: 4, 4: 3}.get(code) if code is not None else None
    if enhancing is not None and other in unknown:
        years = "until 2021" if code == 4 else "from 2023"
        return VolumeError(
            path,
            "enhancing_code",
            f"holds the value {other}, but files named as {years} code enhancing tumour as {code}"
            + ("" if unknown == [other] else f" (also unknown: {[value for value in unknown if value != other]})"),
            f"find out what {other} means there and map it by `mask_values`, or leave out the case",
        )
    return VolumeError(
        path,
        "unknown_labels",
        f"holds the values {unknown[:20]}, which the table {dict(mask_values)} does not map",
        "map them by `mask_values` or mend the mask",
    )
