"""How the voxels of a NIfTI-1 file lie in space, and what its header says of it in two ways or not at all."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 348
UNITS = {0: ("", 1.0), 1: ("metres", 1000.0), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
"""Name and mm of each spatial code of ``xyzt_units``; 0, not known, is taken for mm, as everybody does."""
_ZOOM_TOLERANCE = 0.01

Remark = tuple[str, str, str]
"""Code, what was found, what to do."""


def unit_code(first: bytes) -> int:
    """Spatial code of ``xyzt_units``; legal are the keys of `UNITS`."""
    return first[123] & 7


def affine_in_mm(first: bytes) -> NDArray[np.float64] | None:
    """Affine [4 4] from voxel to mm; None where it is not finite, singular or of absurd voxel size.

    Args:
        first: a header whose `unit_code` is legal.
    """
    import nibabel

    try:
        with np.errstate(all="ignore"):
            affine = np.asarray(_header(first).get_best_affine(), np.float64)
            affine[:3] *= UNITS[unit_code(first)][1]
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
            usable = np.isfinite(affine).all() and sizes.min() > 1e-3 and sizes.max() < 1e3
            usable = usable and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return None
    return affine if usable else None


def geometry_remarks(first: bytes) -> list[Remark]:
    """Say what of a usable header is unusual: other units than mm, no orientation, or two that disagree."""
    import nibabel

    name, millimetres = UNITS[unit_code(first)]
    found: list[Remark] = []
    if millimetres != 1:
        what = f"its header gives lengths in {name}; they were read as {millimetres:g} mm each"
        found.append(("other_units", what, "nothing, if its voxels are of that size"))
    header = _header(first)
    try:
        with np.errstate(all="ignore"):
            sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return found
    if sform is None and qform is None:
        what = "neither sform nor qform says how its voxels lie; they are taken to run to the left, front and top"
        found.append(("no_orientation", what, "look whether left and right are right, and write an sform"))
    elif sform is not None and qform is not None:
        axes = [_axes(affine) for affine in (sform, qform)]
        if axes[0] != axes[1]:
            what = f"its sform says that its axes run to {axes[0]}, its qform to {axes[1]}; the sform was taken"
            found.append(("two_orientations", what, "look whether left and right are right, and make both the same"))
    zooms = np.asarray(header.get_zooms()[:3], np.float64)
    if sform is not None and np.isfinite(zooms).all() and (zooms > 0).all():
        sizes = np.linalg.norm(sform[:3, :3], axis=0)
        if np.abs(sizes / zooms - 1).max() > _ZOOM_TOLERANCE:
            listed = " x ".join(f"{size:.4g}" for size in sizes), " x ".join(f"{size:.4g}" for size in zooms)
            what = f"its voxels are {listed[0]} by its sform, {listed[1]} by pixdim; the sform was taken"
            found.append(("two_spacings", what, "write a header that says one size"))
    return found


def _axes(affine: NDArray[np.float64]) -> str:
    """Letters such as RAS; where an affine is not finite or absurdly large, "nowhere"."""
    import nibabel

    try:
        with np.errstate(all="ignore"):
            return "".join(str(code) for code in nibabel.aff2axcodes(affine))
    except (np.linalg.LinAlgError, ValueError):
        return "nowhere"


def _header(first: bytes) -> Any:
    import nibabel

    return nibabel.Nifti1Header.from_fileobj(io.BytesIO(first[:HEADER_BYTES]), check=False)
