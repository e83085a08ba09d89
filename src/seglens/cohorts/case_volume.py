"""A case's channels as one array in the voxel order of its file, for networks that take volumes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from seglens.cohorts.axial import Scalar, from_axial, from_file_order, to_axial, to_file_order
from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.case_reader import read_case
from seglens.cohorts.volumes import Header, VolumeError, read_header

SPACING_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class CaseVolume:
    """The channels of a case.

    Attributes:
        case: whose they are.
        values: the axes of the first channel's file backwards, so that its fastest is the last; nothing is turned, or
            all is turned to RAS+ where ``canonical``.
        spacing_mm: along the axes of ``values``.
        affine: [4 4] from x, y, z, the axes of ``values`` backwards, to mm.
        canonical: whether the axes were turned.
        like: the first channel's file.
        sha256: of each file.
        file_affine: [4 4] of the first channel's file.
        mask: labels on the grid of ``values``; None where they were not asked for.
    """

    case: Case
    values: Float32[np.ndarray, "C D H W"]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    canonical: bool
    like: ImageRef
    sha256: Mapping[Path, str]
    file_affine: NDArray[np.float64]
    mask: UInt8[np.ndarray, "D H W"] | None = None

    def in_file_order(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask on the grid of ``values`` as its file stores voxels [x y z]."""
        own = mask.transpose(2, 1, 0)
        return to_file_order(own, self.file_affine) if self.canonical else own

    def axial(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask on the grid of ``values`` as the slices of a `Stack` lie, for `write_mask`."""
        own = mask.transpose(2, 1, 0)
        return to_axial(own if self.canonical else from_file_order(own, self.file_affine))


def read_case_volume(
    case: Case,
    sequences: Sequence[str],
    labels: Mapping[int, str],
    *,
    canonical: bool = False,
    with_mask: bool = False,
) -> CaseVolume:
    """Read a case's channels, with all checks of `read_case`.

    Args:
        case: of NIfTI files.
        sequences: the channels, in order; the first gives the grid.
        labels: of the cohort.
        canonical: turn the axes to RAS+.
        with_mask: read the mask too.

    Raises:
        VolumeError: whatever is wrong with the files, or a picture, which has no place in space.
    """
    content = read_case(case, sequences, labels, with_mask=with_mask)
    like = case.images[sequences[0]]
    if content.stacks[sequences[0]].affine is None:
        raise VolumeError(like.path, "no_volume", "is a picture, the model takes volumes", "give NIfTI files")
    header = read_header(like.path, max_bytes=case.reading.max_bytes)

    def placed(slices: NDArray[Scalar]) -> NDArray[Scalar]:
        volume = from_axial(slices)
        return (volume if canonical else to_file_order(volume, header.affine)).transpose(2, 1, 0)

    spacing = np.asarray(_spacing(header))
    affine = header.affine
    if canonical:
        import nibabel

        own = nibabel.io_orientation(header.affine)
        affine = header.affine @ nibabel.orientations.inv_ornt_aff(own, header.shape)
        spacing = spacing[np.argsort(own[:, 0])]
    first, second, third = (float(size) for size in spacing[::-1])
    channels = [placed(content.stacks[sequence].values) for sequence in sequences]
    return CaseVolume(
        case,
        np.ascontiguousarray(np.stack(channels), np.float32),
        (first, second, third),
        affine,
        canonical,
        like,
        content.sha256,
        header.affine,
        None if content.mask is None else placed(content.mask),
    )


def _spacing(header: Header) -> NDArray[np.float64]:
    """Voxel size along a file's axes, mm: as its pixdim says, which nnU-Net reads, where the affine agrees."""
    import nibabel

    exact = np.linalg.norm(header.affine[:3, :3], axis=0)
    stored = nibabel.Nifti1Header.from_fileobj(io.BytesIO(header.raw), check=False).get_zooms()[:3]
    stored = np.asarray(stored, np.float64)
    return stored if np.allclose(stored, exact, rtol=SPACING_TOLERANCE, atol=0) else exact
