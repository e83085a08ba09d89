"""NIfTI files, read so that a damaged or hostile one is named and never becomes a number."""

import hashlib
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2 * 2**30
HEADER_BYTES = 348
FIRST_BYTES = 352  # the header and the four bytes that say whether extensions follow
SLACK_BYTES = 2**16  # some writers pad the end
DEFLATE_LIMIT = 1032  # no gzip stream unfolds to more times its own size
CHUNK_BYTES = 2**22
AFFINE_TOLERANCE = 1e-3

_DATATYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_COLOURS_AND_COMPLEX = {32, 128, 1792, 2048, 2304}
_AGAIN = "download or export the file again"


class VolumeError(ValueError):
    """A file that cannot be used as an image or mask.

    Attributes:
        path: the file.
        code: what kind of fault, such as ``"truncated"``; stable, for programs.
        what: what was found, for people.
        cure: what to do.
    """

    def __init__(self, path: Path, code: str, what: str, cure: str):
        super().__init__(f"{path}: {what}; {cure}")
        self.path = path
        self.code = code
        self.what = what
        self.cure = cure


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in canonical orientation.

    Attributes:
        data: [x y z] float32; x runs to the patient's right, y to anterior, z to superior (RAS+).
        affine: [4 4] float64, from voxel to mm, of ``data``.
        spacing_mm: voxel size along x, y, z.
        sha256: of the file's bytes.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    sha256: str

    def axial(self) -> NDArray[np.float32]:
        """Slices [D H W] from inferior to superior, as a radiologist sees them.

        Rows run from anterior to posterior, columns from the patient's right to left.
        """
        return np.ascontiguousarray(self.data[::-1, ::-1, :].transpose(2, 1, 0))


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_volume(path: Path, *, constant: bool = False, max_bytes: int = MAX_BYTES) -> Volume:
    """Read a NIfTI-1 file whole, or refuse it.

    The header is read first (352 bytes); from it follows how large the content may be, before anything is unpacked. A
    gzip stream is read to its end and its checksum compared: nibabel alone loads files with flipped bits.

    Args:
        path: ``.nii`` or ``.nii.gz``; by its content, not its name.
        constant: also accept a file in which every voxel is the same (an empty mask).
        max_bytes: the most that the unpacked file may hold.

    Returns:
        The voxels, scaled as the header says, in canonical orientation.

    Raises:
        VolumeError: whatever is wrong with the file.
    """
    raw = _read_bytes(path, max_bytes)
    packed = raw[:2] == b"\x1f\x8b"
    first = _unpack(path, raw, FIRST_BYTES, whole=False) if packed else raw[:FIRST_BYTES]
    header = _read_header(path, first, max_bytes)
    affine = _read_affine(path, first)
    expected = header.offset + header.data_bytes
    if packed:
        if expected > len(raw) * DEFLATE_LIMIT:
            raise _truncated(path, len(raw), f"more than {expected // DEFLATE_LIMIT} packed bytes")
        content = _unpack(path, raw, expected + SLACK_BYTES, whole=True)
    else:
        content = raw
    if len(content) < expected:
        raise _truncated(path, len(content), f"{expected} bytes")
    if len(content) > expected + SLACK_BYTES:
        raise VolumeError(
            path, "oversized", f"more bytes than the {expected} that its header announces", f"{_AGAIN}; do not trust it"
        )
    voxels = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
    voxels = voxels.reshape(header.shape, order="F")
    if voxels.dtype.kind == "f":
        _check_finite(path, voxels)
    if not constant and voxels.min() == voxels.max():
        raise VolumeError(
            path, "constant", f"every voxel is {voxels.flat[0]}", "give the image that was scanned, or leave it out"
        )
    data = voxels.astype(np.float32)
    if (header.slope, header.intercept) != (1.0, 0.0):
        data = (voxels.astype(np.float64) * header.slope + header.intercept).astype(np.float32)
        _check_finite(path, data)
    data, affine = _canonical(data, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Volume(data, affine, (float(spacing[0]), float(spacing[1]), float(spacing[2])), sha256)


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VolumeError(path, "missing", f"cannot be opened ({error.strerror})", "put the file there") from None
    if not path.is_file():
        raise VolumeError(path, "missing", "is not a file", "give a .nii or .nii.gz file")
    if size == 0:
        raise VolumeError(path, "empty_file", "holds 0 bytes", _AGAIN)
    if size > max_bytes:
        raise VolumeError(path, "too_large", f"holds {size} bytes, over the cap of {max_bytes}", "crop or resample it")
    raw = path.read_bytes()
    start = raw[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        raise VolumeError(path, "not_nifti", "is a web page or text, not an image", f"the download failed; {_AGAIN}")
    return raw


def _unpack(path: Path, raw: bytes, limit: int, *, whole: bool) -> bytes:
    """At most ``limit`` + 1 bytes of the gzip stream; ``whole``: its end and checksum must be reached."""
    parts: list[bytes] = []
    total = 0
    rest = raw
    try:
        while rest[:2] == b"\x1f\x8b" and total <= limit:
            member = zlib.decompressobj(wbits=31)
            while not member.eof and total <= limit:
                part = member.decompress(rest, min(CHUNK_BYTES, limit + 1 - total))
                rest = member.unconsumed_tail
                parts.append(part)
                total += len(part)
                if not part and not rest and not member.eof:
                    if whole:
                        raise _truncated(path, len(raw), f"a whole gzip stream (it breaks off after {total} bytes)")
                    return b"".join(parts)
            rest = member.unused_data
    except zlib.error as error:
        raise VolumeError(path, "corrupt", f"its gzip stream is damaged ({error})", _AGAIN) from None
    if whole and total <= limit and rest.strip(b"\0"):
        raise VolumeError(path, "corrupt", f"{len(rest)} stray bytes follow its gzip stream", _AGAIN)
    return b"".join(parts)


def _read_header(path: Path, first: bytes, max_bytes: int) -> _Header:
    if len(first) < FIRST_BYTES:
        raise _truncated(path, len(first), f"at least {FIRST_BYTES} bytes of header")
    order = next((o for o in "<>" if struct.unpack(o + "i", first[:4])[0] == HEADER_BYTES), None)
    if order is None or first[344:348] != b"n+1\0":
        kind = "NIfTI-2" if 540 in (struct.unpack(o + "i", first[:4])[0] for o in "<>") else "no NIfTI-1 file"
        raise VolumeError(path, "not_nifti", f"is {kind}", "convert it to a single-file NIfTI-1 (.nii.gz)")
    dims = struct.unpack(order + "8h", first[40:56])
    rank = dims[0]
    sizes = dims[1 : 1 + rank] if 1 <= rank <= 7 else ()
    if not sizes or min(sizes) < 0:
        raise VolumeError(path, "bad_dimensions", f"its header has the dimensions {list(dims)}", _AGAIN)
    if min(sizes) == 0 or rank < 3:
        raise VolumeError(path, "no_slices", f"its grid {sizes} holds no slices", "give a 3-D volume")
    if math.prod(sizes[3:]) != 1:
        raise VolumeError(
            path,
            "four_dimensions",
            f"its grid {sizes} has more than 3 dimensions",
            "is the fourth the sequence or the time? Save one 3-D file for each",
        )
    code, bits = struct.unpack(order + "2h", first[70:74])
    if code in _COLOURS_AND_COMPLEX:
        raise VolumeError(path, "complex_or_rgb", f"its voxels are complex or colours (type {code})", "save magnitudes")
    if code not in _DATATYPES or np.dtype(_DATATYPES[code]).itemsize * 8 != bits:
        raise VolumeError(path, "unknown_datatype", f"its header has the datatype {code} with {bits} bits", _AGAIN)
    offset, slope, intercept = struct.unpack(order + "3f", first[108:120])
    if not (math.isfinite(offset) and FIRST_BYTES <= offset < 2**24 and offset == int(offset)):
        raise VolumeError(path, "bad_offset", f"its voxels are said to start at byte {offset}", _AGAIN)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise VolumeError(path, "bad_scale", f"its scale is {slope} x + {intercept}", "save it without a scale")
    if slope == 0:  # the standard's way to say: no scale
        slope, intercept = 1.0, 0.0
    shape = (sizes[0], sizes[1], sizes[2])
    header = _Header(shape, np.dtype(order + _DATATYPES[code]), int(offset), slope, intercept)
    if header.data_bytes > max_bytes:
        raise VolumeError(
            path, "too_large", f"its grid {shape} needs {header.data_bytes} bytes, over the cap of {max_bytes}", _AGAIN
        )
    return header


def _read_affine(path: Path, first: bytes) -> NDArray[np.float64]:
    import nibabel

    try:
        with np.errstate(all="ignore"):
            header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(first[:HEADER_BYTES]), check=False)
            affine = np.asarray(header.get_best_affine(), np.float64)
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
            usable = np.isfinite(affine).all() and sizes.min() > 1e-3 and sizes.max() < 1e3
            usable = usable and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        usable = False
    if not usable:
        raise VolumeError(
            path, "bad_affine", "its affine is not finite, singular or of absurd voxel size", "write a right sform"
        )
    return affine


def _canonical(data: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, affine))
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64)


def _check_finite(path: Path, voxels: NDArray[Any]) -> None:
    bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if bad:
        raise VolumeError(
            path, "nonfinite_voxels", f"{bad} of {voxels.size} voxels are NaN or infinite", "mend or leave out the file"
        )


def _truncated(path: Path, found: int, needed: str) -> VolumeError:
    return VolumeError(path, "truncated", f"holds {found} bytes where its header needs {needed}", _AGAIN)
