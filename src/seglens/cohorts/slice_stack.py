"""A case's files as stacks of axial slices, whatever kind of file they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.axial import axial_affine, canonical_affine, to_axial
from seglens.cohorts.case import ImageRef
from seglens.cohorts.image2d import SUFFIXES, read_planes
from seglens.cohorts.source_options import STRICT, Reading
from seglens.cohorts.volumes import AFFINE_TOLERANCE, VolumeError, read_volumes

_FRACTION_TOLERANCE = 1e-6
MAX_CODE = 2**31 - 1
"""Of a label's code in a file; what is beyond is no whole number of NumPy's any more."""
_JPEG_NOISE = 24
"""Grey values by which JPEG may change a black-and-white picture where it is flat."""
_MAX_LABELS = 16
"""More values than this in a 2-D mask are shades."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Axial slices of one file.

    Attributes:
        values: [D H W] float32; rows from anterior to posterior, columns from the patient's right to left; a 2-D file
            gives one slice, as it is.
        spacing_mm: between rows, between columns; None where the file does not say (2-D).
        affine: [4 4] of ``values``: from slice, row and column to mm; None for a 2-D file.
        sha256: of the file's bytes.
        n_zeroed: voxels that were NaN or infinite and are 0 now.
        notes: what is unusual about the file.
    """

    values: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    affine: NDArray[np.float64] | None
    sha256: str
    n_zeroed: int = 0
    notes: tuple[VolumeError, ...] = ()

    @property
    def voxel_mm(self) -> tuple[float, float, float] | None:
        """Distances between slices, rows and columns; None of a 2-D file."""
        if self.affine is None:
            return None
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def read_stack(ref: ImageRef, *, constant: bool = False) -> Stack:
    """Read a NIfTI file or a 2-D image file; as `read_stacks`."""
    return read_stacks([ref], constant=constant)[0]


def read_stacks(
    refs: Sequence[ImageRef], *, constant: bool = False, reading: Reading = STRICT, zero_nonfinite: bool = False
) -> list[Stack]:
    """Read a NIfTI file or a 2-D image file, once for all its channels.

    Args:
        refs: what to read, all of one file.
        constant: also accept a channel whose values are all the same (an empty mask).
        reading: where the file may lie and how large it may be.
        zero_nonfinite: set voxels that are NaN or infinite to 0 (NIfTI only).

    Returns:
        A stack a ref.

    Raises:
        VolumeError: whatever is wrong with the file.
    """
    path = refs[0].path
    if not reading.allows(path):
        raise VolumeError(
            path,
            "outside_link",
            "is a link out of the data set's folder",
            "copy the file there, or read the cohort with follow_links if it is to be trusted",
        )
    if path.suffix.lower() in SUFFIXES:
        planes, sha256 = read_planes(refs, constant=constant)
        return [Stack(plane[None], None, None, sha256) for plane in planes]
    volumes = read_volumes(
        path,
        [ref.channel for ref in refs],
        constant=constant,
        zero_nonfinite=zero_nonfinite,
        max_bytes=reading.max_bytes,
    )
    stacks = []
    for one in volumes:
        values = to_axial(one.data)
        spacing_mm = (one.spacing_mm[1], one.spacing_mm[0])
        affine = axial_affine(one.affine, values.shape)
        stacks.append(Stack(values, spacing_mm, affine, one.sha256, one.n_zeroed, one.notes))
    return stacks


def grid_problem(path: Path, stack: Stack, first: Stack, first_path: Path) -> VolumeError | None:
    """Fault that keeps ``stack`` from lying on the grid of ``first``; None where it lies on it."""
    if stack.values.shape != first.values.shape:
        return VolumeError(
            path,
            "other_shape",
            f"its grid (slices, rows, columns) {stack.values.shape} is not {first.values.shape} of {first_path.name}",
            "resample it to that grid, or read the cohort with resample",
        )
    if stack.affine is not None and first.affine is not None:
        shape = stack.values.shape  # compared as files give them: an origin at the volume's other end differs by more
        difference = float(np.abs(canonical_affine(stack.affine, shape) - canonical_affine(first.affine, shape)).max())
        if difference > AFFINE_TOLERANCE:
            return VolumeError(
                path,
                "other_affine",
                f"its affine differs by up to {difference:.4g} from that of {first_path.name}",
                "fix its header, resample it to that grid, or read the cohort with resample",
            )
    return None


def map_mask(
    path: Path,
    values: NDArray[np.float32],
    mask_values: Mapping[int, int],
    labels: Mapping[int, str],
    threshold: float | None = None,
) -> NDArray[np.uint8]:
    """The file's values as the cohort's labels.

    Args:
        path: the file, for messages.
        values: as read.
        mask_values: value in the file to label.
        labels: label to class name; two where there is a threshold.
        threshold: values of at least this are the one label that is not 0, all others are 0; ``mask_values`` is not
            looked at. None: values are mapped one by one.

    Returns:
        Labels, uint8, of the shape of ``values``.

    Raises:
        VolumeError: fractions (1.0 is fine, 0.9997 is not) or values that are not in the table.
    """
    if threshold is not None:
        return np.where(values >= threshold, max(labels), 0).astype(np.uint8)
    if float(np.abs(values).max()) > MAX_CODE:
        what = f"holds values from {values.min():g} to {values.max():g}, which are no labels"
        raise VolumeError(path, "unknown_labels", what, "give the mask, not an image")
    rounded = np.rint(values)
    off = np.abs(values - rounded) > _FRACTION_TOLERANCE
    if off.any():
        raise VolumeError(
            path,
            "fractional_labels",
            f"{int(off.sum())} voxels are not whole numbers, such as {values[off][0]:.6g}",
            "resample masks by nearest neighbour only"
            + (", or add `mask_threshold` (0.5 between 0 and 1)" if len(labels) == 2 else ""),
        )
    found = np.unique(rounded).astype(np.int64).tolist()
    unknown = [value for value in found if value not in mask_values]
    if unknown:
        raise _unknown_labels(path, found, mask_values, labels)
    mapped = np.zeros(values.shape, np.uint8)
    for value in found:
        if mask_values[value] != 0:
            mapped[rounded == value] = mask_values[value]
    return mapped


def _is_grey(path: Path, found: list[int], mask_values: Mapping[int, int]) -> bool:
    """Whether the values of a 2-D mask look like two that were blurred, not like labels."""
    if path.suffix.lower() not in SUFFIXES or len(found) <= 2:
        return False
    near = all(min(abs(value - code) for code in mask_values) <= _JPEG_NOISE for value in found)
    return len(found) > _MAX_LABELS or (near and max(mask_values) > 4 * _JPEG_NOISE)


def _unknown_labels(
    path: Path, found: list[int], mask_values: Mapping[int, int], labels: Mapping[int, str]
) -> VolumeError:
    unknown = [value for value in found if value not in mask_values]
    if len(labels) == 2 and _is_grey(path, found, mask_values):
        half = 128 if 128 <= found[-1] <= 255 else (found[-1] + 1) // 2
        return VolumeError(
            path,
            "grey_mask",
            f"holds {len(found)} grey values from {found[0]} to {found[-1]}, such as {unknown[:5]}, where a mask of "
            "two labels has two: it was resized with interpolation, or saved as JPEG",
            f"add `mask_threshold: {half}` (what is {half} or brighter is {labels[max(labels)]}), or save it again "
            "with two values",
        )
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
