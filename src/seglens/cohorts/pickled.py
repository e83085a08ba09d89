"""Pickled pairs of arrays (TransMorph's IXI brains, arXiv 2111.10480) as a cohort of NIfTI files."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.precision import to_float32
from seglens.cohorts.sequences import canonical_sequence
from seglens.foreign.arrays import ArrayError
from seglens.foreign.pickles import read_pickle
from seglens.runtime.atomic import whole_folder
from seglens.runtime.progress import Progress, silent

MAX_ID_BYTES = 200
"""Of a case's id, which is its path in the folder: names of files have 255 bytes at most."""
_WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""A direction's row in the affine, and its sign."""


def convert_pickles(
    source: Path,
    folder: Path,
    *,
    orientation: str,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    sequence: str = "T1",
    progress: Progress = silent,
) -> Path:
    """Write ``.pkl`` files, each a pair of an image and its labels, in nnU-Net's raw layout.

    Args:
        source: a file, or a folder with such files at any depth; a case's id is its path in it.
        folder: where the cohort goes; must not exist. It appears when it is whole.
        orientation: where the arrays' three axes run to, such as ``"LIA"``: a pickle does not say it, and left for
            right would go unseen.
        spacing_mm: voxel size along the three axes.
        sequence: what the images show.
        progress: told after each file.

    Returns:
        The folder: ``imagesTr``, ``labelsTr`` and a ``dataset.json`` that names each label by its value.

    Raises:
        ArrayError: every file that is no such pair, or that wants to run code; nothing is written then.
        ValueError: no files, an orientation that is none, or a folder that exists.
    """
    affine = affine_of(orientation, spacing_mm)
    if folder.exists():
        raise ValueError(f"{folder} exists; give another folder")
    cases = _cases(source)
    refused: list[str] = []
    values: set[int] = {0}
    with whole_folder(folder) as partial:
        for part in ("imagesTr", "labelsTr"):
            (partial / part).mkdir()
        for done, (case, path) in enumerate(cases.items(), start=1):
            try:
                image, labels = _pair(path)
            except ArrayError as error:
                refused.append(str(error))
            else:
                values.update(np.unique(labels).tolist())
                _write_nifti(partial / "imagesTr" / f"{case}_0000.nii.gz", image, affine)
                _write_nifti(partial / "labelsTr" / f"{case}.nii.gz", labels, affine)
            progress(done, len(cases))
        if refused:
            raise ArrayError(f"{len(refused)} of {len(cases)} files are refused:\n" + "\n".join(refused))
        dataset = {
            "channel_names": {"0": canonical_sequence(sequence)},
            "labels": {"background" if value == 0 else f"label_{value}": value for value in sorted(values)},
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
        }
        (partial / "dataset.json").write_text(json.dumps(dataset, indent=1) + "\n", encoding="utf-8")
    return folder


def affine_of(orientation: str, spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """The affine [4 4], voxel to mm in RAS+, of an array whose axes run to ``orientation``, its origin in voxel 0.

    Raises:
        ValueError: not one each of R or L, A or P, S or I; or a size that is not positive.
    """
    codes = orientation.upper()
    if len(codes) != 3 or {_WORLD.get(code, (9, 0))[0] for code in codes} != {0, 1, 2}:
        raise ValueError(
            f"orientation {orientation!r}: say for each axis where it runs to, of R or L, A or P, S or I, such as LIA"
        )
    if not all(0 < size < np.inf for size in spacing_mm):
        raise ValueError(f"spacing_mm {spacing_mm}: give three positive sizes, in mm")
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (code, size) in enumerate(zip(codes, spacing_mm, strict=True)):
        row, sign = _WORLD[code]
        affine[row, axis] = sign * size
    return affine


def _cases(source: Path) -> dict[str, Path]:
    """Case id to file; ids that differ by capitals alone would be one file on some disks."""
    if source.is_file():
        return {source.stem: source}
    files = sorted(source.rglob("*.pkl")) if source.is_dir() else []
    if not files:
        raise ValueError(f"{source}: no .pkl file there; give one, or the folder that holds them")
    cases = {"-".join(file.relative_to(source).with_suffix("").parts): file for file in files}
    if len({case.casefold() for case in cases}) < len(files):
        raise ValueError(f"{source}: files whose names are the same but for capitals or folders; rename them")
    if long := [case for case in cases if len(case.encode("utf-8", "replace")) > MAX_ID_BYTES]:
        raise ValueError(f"{source}: {long[0]!r} is longer than {MAX_ID_BYTES} bytes as a name; shorten the path")
    return cases


def _pair(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    content = read_pickle(path)
    arrays = content if isinstance(content, tuple | list) else ()
    if len(arrays) != 2 or not all(isinstance(array, np.ndarray) and array.ndim == 3 for array in arrays):
        kinds = [f"{array.ndim}-D array" if isinstance(array, np.ndarray) else type(array).__name__ for array in arrays]
        found = ", ".join(kinds[:8]) or f"a {type(content).__name__}"
        raise ArrayError(f"{path}: holds {found}; an image and its labels are needed, two 3-D arrays")
    image, labels = arrays
    if image.shape != labels.shape or not image.size:
        raise ArrayError(f"{path}: the image is {image.shape}, the labels are {labels.shape}; they must have one grid")
    with np.errstate(invalid="ignore"):  # NaN becomes some number, and the comparison says so
        whole = np.asarray(labels, np.int32)
    if not np.array_equal(whole, labels):
        raise ArrayError(f"{path}: its second array is no mask: it holds values that are not whole numbers")
    kind = np.int32 if whole.min() < 0 else np.min_scalar_type(int(whole.max()))
    read = to_float32(image)
    if fault := read.fault():
        raise ArrayError(f"{path}: {'; '.join(fault)}")
    if read.n_nonfinite:
        raise ArrayError(f"{path}: {read.n_nonfinite} of {image.size} voxels are NaN or infinite; mend it")
    return read.data, whole.astype(kind)


def _write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    import nibabel

    image = nibabel.nifti1.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    # no time and no name in the gzip header: same arrays, same bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
