"""Whole volumes: the scans that slices were cut from, in three planes.

They are read anew, by the reader that the cut used, so a volume is shown only where its files are still those of the
run. It is addressed by cohort, case and sequence, never by a path.
"""

from threading import Lock

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray

from seglens.cohorts.axial import canonical_affine, from_axial
from seglens.cohorts.case import Case
from seglens.cohorts.case_reader import CaseContent, read_case
from seglens.cohorts.volumes import VolumeError, read_header
from seglens.explorer.answers import BINARY, MEDIA_TYPE
from seglens.explorer.opened import UnknownError
from seglens.explorer.state import CurrentState

router = APIRouter(tags=["volumes"])
MAX_VOXELS = 2**26
"""400 to the power of 3: a browser holds four bytes of texture a voxel, this process three copies while it reads."""
_reading = Lock()
"""One volume at a time, for it is by far the largest thing that this process holds."""


@router.get("/cohorts/{cohort}/volumes/{case}/images/{sequence}", response_class=Response, responses=BINARY)
def image(cohort: str, case: str, sequence: str, state: CurrentState) -> Response:
    """One sequence of a case as NIfTI-1: axes to the patient's right, front and top (RAS), places in mm as in its file.

    Its third axis counts the slices as the run does.
    """
    own = _case(state, cohort, case)
    known = state.run.slices(cohort).sequences
    if sequence not in known:
        raise UnknownError(f"{cohort} has no sequence {sequence!r}; it has {', '.join(known)}")
    # where files may be resampled, they are brought onto the grid of the first one, as for the cut
    needed = list(dict.fromkeys([known[0], sequence])) if own.reading.resample else [sequence]
    stack = _read(state, own, needed, with_mask=False).stacks[sequence]
    return _answer(stack.values, stack.affine)


@router.get("/cohorts/{cohort}/volumes/{case}/mask", response_class=Response, responses=BINARY)
def mask(cohort: str, case: str, state: CurrentState) -> Response:
    """The case's mask on the same grid as its images, in the cohort's labels, as NIfTI-1 of uint8."""
    own = _case(state, cohort, case)
    first = state.run.slices(cohort).sequences[0]
    content = _read(state, own, [first], with_mask=True)
    assert content.mask is not None  # else it is a fault, which is raised
    return _answer(content.mask, content.stacks[first].affine)


def as_nifti(values: NDArray[np.float32] | NDArray[np.uint8], affine: NDArray[np.float64]) -> bytes:
    """A stack of axial slices as a NIfTI-1 file, in the smallest of uint8, int16 and float32 that loses nothing.

    Args:
        values: [D H W], see `seglens.cohorts.slice_stack.Stack`.
        affine: [4 4] of the slices: from slice, row and column to mm.
    """
    import nibabel

    kept: NDArray[np.generic] = values
    if values.dtype != np.uint8 and (values == np.rint(values)).all():
        for kind in (np.uint8, np.int16):
            if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max:
                kept = values.astype(kind)
                break
    made = nibabel.nifti1.Nifti1Image(from_axial(kept), canonical_affine(affine, kept.shape))
    made.header.set_xyzt_units("mm")
    return made.to_bytes()


def _case(state: CurrentState, cohort: str, case: str) -> Case:
    """A case that the run has slices of, with a volume."""
    if case not in state.run.slices(cohort).index["case"]:
        raise UnknownError(f"the run has no slice of a case {case!r} in {cohort}")
    try:
        own = state.run.source(cohort).case(case)
    except ValueError as error:
        raise UnknownError(f"{error}; its files are not where the run read them") from None
    if own.position is not None:
        raise UnknownError(f"{case} is a 2-D picture file; {cohort} has no volumes")
    return own


def _read(state: CurrentState, case: Case, sequences: list[str], *, with_mask: bool) -> CaseContent:
    """A case's files, if they are those that the run has seen."""
    run = state.run.run
    check = f"check/{case.cohort}"
    known = run.artifact(check).document("check").get("sha256", {}) if check in run else {}
    with _reading:
        try:
            _refuse_huge(case, sequences)
            labels = state.run.slices(case.cohort).labels
            content = read_case(case, sequences, labels, with_mask=with_mask)
        except VolumeError as error:
            raise UnknownError(f"this volume cannot be shown: {error}") from None
    names = [*sequences, "mask"] if with_mask else sequences
    for name in names:
        ref = case.mask if name == "mask" else case.images[name]
        assert ref is not None  # it was read
        then = known.get(f"{case.id}/{name}")
        if then is None and not ref.path.resolve().is_relative_to(run.path.resolve()):
            raise UnknownError(
                f"the run keeps no sha256 of {case.id}/{name}, so nobody can tell whether {ref.path.name} is the file "
                "that its slices were cut from; run the study again"
            )
        if then not in (None, content.sha256[ref.path]):
            raise UnknownError(
                f"{ref.path} is not the file that the slices of {case.id} were cut from: its sha256 differs"
            )
    return content


def _refuse_huge(case: Case, sequences: list[str]) -> None:
    """Before anything is unpacked."""
    for name in sequences:
        if name in case.images and case.reading.allows(case.images[name].path):
            path = case.images[name].path
            shape = read_header(path, max_bytes=case.reading.max_bytes).shape
            if np.prod(shape, dtype=np.int64) > MAX_VOXELS:
                raise VolumeError(
                    path, "too_large", f"its grid {shape} has over {MAX_VOXELS} voxels", "look at its slices"
                )


def _answer(values: NDArray[np.float32] | NDArray[np.uint8], affine: NDArray[np.float64] | None) -> Response:
    assert affine is not None  # only a 2-D file has none
    return Response(as_nifti(values, affine), media_type=MEDIA_TYPE)
