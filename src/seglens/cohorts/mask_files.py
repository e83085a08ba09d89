"""Masks as files on the grid of the image that they were made from."""

import gzip
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.axial import from_axial, to_file_order
from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.image2d import SUFFIXES, as_stored
from seglens.cohorts.volumes import MAX_BYTES, read_header


def mask_name(case: Case, like: ImageRef) -> str:
    """A file name for a case's mask: its id where that is a plain name, else what is plain of it and a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", case.id).lstrip(".")[:100]
    stem = plain if plain == case.id else f"{plain}-{hashlib.sha256(case.id.encode()).hexdigest()[:8]}"
    return stem + (".png" if like.path.suffix.lower() in SUFFIXES else ".nii.gz")


def file_codes(case: Case, labels: Mapping[int, str]) -> dict[int, int]:
    """Label to value in the case's mask files: the inverse of ``mask_values``.

    Where several values stand for one label, the label's own value is taken if it is one of them, else the smallest.

    Raises:
        ValueError: a label without a value.
    """
    codes = {}
    for label, name in labels.items():
        values = [value for value, mapped in case.mask_values.items() if mapped == label]
        if not values:
            raise ValueError(
                f"no value in the masks stands for {label} ({name}): {dict(case.mask_values)}; give `mask_values`"
            )
        codes[label] = label if label in values else min(values)
    return codes


def write_mask(
    path: Path, mask: NDArray[np.uint8], codes: Mapping[int, int], like: ImageRef, *, max_bytes: int = MAX_BYTES
) -> None:
    """Write a mask on the own grid of an image.

    A volume becomes a NIfTI file with the image's voxel order, orientation, affine and units, bit for bit those of its
    header; a 2-D image's mask becomes a PNG with its rows and columns. The same mask gives the same bytes.

    Args:
        path: ``.nii.gz`` or ``.png``.
        mask: labels [D H W] as the image's `Stack` lies.
        codes: label to value in the file.
        like: the image.
        max_bytes: the most that the image's unpacked file may hold, as where it was read.

    Raises:
        VolumeError: the image cannot be read any more.
        ValueError: a mask of another shape, or a value that the file cannot hold.
    """
    kind = next((kind for kind in ("u1", "i2", "i4") if _fits(codes.values(), kind)), None)
    if kind is None or (path.suffix == ".png" and kind != "u1"):
        raise ValueError(f"{path.name}: the values {sorted(codes.values())} do not fit; give others by `mask_values`")
    table = np.zeros(max(codes) + 1, kind)
    for label, code in codes.items():
        table[label] = code
    values = table[mask]
    if path.suffix == ".png":
        _write_png(path, values, like)
    else:
        _write_nifti(path, values, like, max_bytes)


def _fits(codes: Iterable[int], kind: str) -> bool:
    limits = np.iinfo(kind)
    return all(limits.min <= code <= limits.max for code in codes)


def _write_png(path: Path, values: NDArray[Any], like: ImageRef) -> None:
    from PIL import Image

    Image.fromarray(as_stored(values[0], like.orientation)).save(path)


def _write_nifti(path: Path, values: NDArray[Any], like: ImageRef, max_bytes: int) -> None:
    import nibabel

    own = read_header(like.path, max_bytes=max_bytes)
    data = to_file_order(from_axial(values), own.affine)
    if data.shape != own.shape:
        raise ValueError(f"{path.name}: the mask is {data.shape}, the image {like.path.name} {own.shape}")
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(own.raw), check=False)
    header.set_data_dtype(values.dtype)
    for field, neutral in (("cal_max", 0), ("cal_min", 0), ("descrip", b""), ("aux_file", b""), ("intent_code", 0)):
        header[field] = neutral
    image = nibabel.Nifti1Image(data, None, header)
    # no time and no name in the gzip header: the same mask, the same bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
