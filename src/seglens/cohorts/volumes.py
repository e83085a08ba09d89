"""NIfTI files, read so that a damaged or hostile one is named and never becomes a number."""

import errno
import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.nifti_geometry import HEADER_BYTES, UNITS, affine_in_mm, geometry_remarks, unit_code
from seglens.cohorts.precision import to_float32
from seglens.foreign.pictures import DEFLATE_LIMIT

MAX_BYTES = 2 * 2**30
FIRST_BYTES = 352  # the header and the four bytes that say whether extensions follow
SLACK_BYTES = 2**16  # some writers pad the end with zeros
AFFINE_TOLERANCE = 1e-3
GZIP = b"\x1f\x8b"
PIECE_BYTES = 2**16
MAX_EMPTY_MEMBERS = 16  # of a gzip stream: some writers end with one; a million of them would take hours

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
_SMALLER = "crop or resample it, or raise the cap (`max_gib`)"
_AGAIN = "download or export the file again"
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class VolumeError(ValueError):
    """A file that cannot be used as an image or mask.

    Attributes:
        path: the file.
        code: what kind of fault, such as ``"truncated"``; stable, for programs.
        what: what was found, for people.
        fix: what to do.
    """

    def __init__(self, path: Path, code: str, what: str, fix: str):
        super().__init__(f"{path}: {what}; {fix}")
        self.path = path
        self.code = code
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[type["VolumeError"], tuple[Path, str, str, str]]:
        """As it was made: a worker process sends it, and pickle would call it with the message alone."""
        return type(self), (self.path, self.code, self.what, self.fix)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in canonical orientation.

    Attributes:
        data: [x y z] float32; x runs to the patient's right, y to anterior, z to superior (RAS+).
        affine: [4 4] float64, from voxel to mm, of ``data``.
        spacing_mm: voxel size along x, y, z.
        sha256: of the file's bytes.
        n_zeroed: voxels that were NaN or infinite and are 0 now.
        notes: what is unusual about how the file says that its voxels lie.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    sha256: str
    n_zeroed: int = 0
    notes: tuple[VolumeError, ...] = ()


@dataclass(frozen=True)
class Header:
    """Header of a NIfTI-1 file, checked.

    Attributes:
        shape: voxels along its own first three axes.
        n_channels: of a fourth dimension; 1 without one.
        affine: [4 4] float64, from its own voxels to mm.
        raw: the 348 bytes.
    """

    shape: tuple[int, int, int]
    n_channels: int
    affine: NDArray[np.float64]
    raw: bytes
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def end(self) -> int:
        """Bytes of header and voxels together."""
        return self.offset + math.prod(self.shape) * self.n_channels * self.dtype.itemsize

    @property
    def layer_bytes(self) -> int:
        """Bytes by which the file would be larger, at least, were one of its dimensions by one more."""
        return (self.end - self.offset) // max(*self.shape, self.n_channels)


def read_header(path: Path, *, max_bytes: int = MAX_BYTES) -> Header:
    """The header of a NIfTI-1 file, no voxel.

    Raises:
        VolumeError: as `read_volume`, as far as the first bytes show.
    """
    raw = _read_bytes(path, max_bytes)
    return _parse(path, raw, max_bytes)


def read_volume(path: Path, *, constant: bool = False, max_bytes: int = MAX_BYTES) -> Volume:
    """Read a 3-D NIfTI-1 file; as `read_volumes`."""
    return read_volumes(path, (None,), constant=constant, max_bytes=max_bytes)[0]


def read_volumes(
    path: Path,
    channels: Sequence[int | None],
    *,
    constant: bool = False,
    zero_nonfinite: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[Volume, ...]:
    """Read a NIfTI-1 file whole, or refuse it.

    The header is read first (352 bytes); from it follows how large the content may be, before anything is unpacked. A
    gzip stream is read to its end and its checksum compared: nibabel alone loads files with flipped bits.

    Args:
        path: ``.nii`` or ``.nii.gz``; by its content, not its name.
        channels: which of a fourth dimension, counted from 0; None where the file must be 3-D.
        constant: also accept a channel in which every voxel is the same (an empty mask).
        zero_nonfinite: set NaN and infinite voxels to 0 and count them, instead of refusing the file.
        max_bytes: the most that the unpacked file may hold.

    Returns:
        A volume a channel: the voxels, scaled as the header says, in canonical orientation.

    Raises:
        VolumeError: whatever is wrong with the file.
    """
    raw = _read_bytes(path, max_bytes)
    header = _parse(path, raw, max_bytes)
    content = _content(path, raw, header)
    voxels = np.frombuffer(content, header.dtype, math.prod(header.shape) * header.n_channels, header.offset)
    voxels = voxels.reshape((*header.shape, header.n_channels), order="F")
    sha256 = hashlib.sha256(raw).hexdigest()
    notes = tuple(VolumeError(path, *remark) for remark in geometry_remarks(header.raw))
    volumes = []
    for channel in channels:
        _check_channel(path, header, channel)
        data, n_zeroed = _scaled(
            path, voxels[..., channel or 0], header, constant=constant, zero_nonfinite=zero_nonfinite
        )
        data, affine = _canonical(data, header.affine)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        spacing_mm = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        volumes.append(Volume(data, affine, spacing_mm, sha256, n_zeroed, notes))
    return tuple(volumes)


def read_whole(path: Path, max_bytes: int, *, smaller: str) -> bytes:
    """All bytes of a file.

    Args:
        path: the file.
        max_bytes: the most that it may hold.
        smaller: the fix where it holds more.

    Raises:
        VolumeError: no file, one that cannot be read, an empty one, or one that is too large.
    """
    try:
        size, is_file = path.stat().st_size, path.is_file()
    except OSError as error:
        if error.errno in _ABSENT:
            raise VolumeError(path, "missing", f"cannot be opened ({error.strerror})", "put the file there") from None
        raise _unreadable(path, error) from None
    if not is_file:
        raise VolumeError(path, "missing", "is not a file", "put the image file there")
    if size == 0:
        raise VolumeError(path, "empty_file", "holds 0 bytes", _AGAIN)
    if size > max_bytes:
        raise VolumeError(path, "too_large", f"holds {size} bytes, over the cap of {max_bytes}", smaller)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> VolumeError:
    return VolumeError(
        path,
        "unreadable",
        f"cannot be read ({error.strerror or type(error).__name__})",
        "allow it to be read, or copy it again to a disk that works",
    )


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    raw = read_whole(path, max_bytes, smaller=_SMALLER)
    start = raw[:64].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        raise VolumeError(path, "not_nifti", "is a web page or text, not an image", f"the download failed; {_AGAIN}")
    return raw


def _parse(path: Path, raw: bytes, max_bytes: int) -> Header:
    first = bytes(_unpack(path, raw, FIRST_BYTES)) if raw[:2] == GZIP else raw[:FIRST_BYTES]
    if len(first) < FIRST_BYTES:
        raise _truncated(path, len(raw), f"at least {FIRST_BYTES} bytes of header (unpacked, it has {len(first)})")
    return _read_header(path, first, max_bytes)


def _content(path: Path, raw: bytes, header: Header) -> bytes | memoryview:
    """Header and voxels, unpacked; all of them, and not much more."""
    expected = header.end
    content: bytes | memoryview = raw
    if raw[:2] == GZIP:
        if expected > len(raw) * DEFLATE_LIMIT:
            raise _truncated(path, len(raw), f"more than {expected // DEFLATE_LIMIT} packed bytes")
        content = _unpack(path, raw, expected + SLACK_BYTES, expected)
    if len(content) < expected:
        raise _truncated(path, len(content), f"{expected} bytes")
    if len(content) > expected + SLACK_BYTES:
        raise VolumeError(
            path, "oversized", f"more bytes than the {expected} that its header announces", f"{_AGAIN}; do not trust it"
        )
    surplus = bytes(content[expected:])
    if len(surplus) >= header.layer_bytes or surplus.strip(b"\0"):
        what = f"{len(surplus)} bytes follow the {(*header.shape, header.n_channels)} voxels that its header announces"
        raise VolumeError(path, "oversized", what, f"find out which is right, or {_AGAIN}")
    return content


def _unpack(path: Path, raw: bytes, limit: int, expected: int | None = None) -> memoryview:
    """At most ``limit`` + 1 bytes of the gzip stream; with ``expected`` bytes its end and checksum must be reached."""
    packed, unpacked = memoryview(raw), memoryview(bytearray(limit + 1))
    at = total = n_empty = 0
    try:
        while packed[at : at + 2] == GZIP and total <= limit and n_empty <= MAX_EMPTY_MEMBERS:
            member, start = zlib.decompressobj(wbits=31), total
            while not member.eof and total <= limit:
                # small pieces, for zlib copies what it does not take; into one buffer, for new memory is slow
                piece = packed[at : at + PIECE_BYTES]
                part = member.decompress(piece, min(16 * PIECE_BYTES, limit + 1 - total))
                unpacked[total : total + len(part)] = part
                total += len(part)
                at += len(piece) - len(member.unconsumed_tail) - len(member.unused_data)
                if not part and not piece:
                    if expected is not None:
                        needed = f"a whole gzip stream (it breaks off after {total} of {expected} unpacked bytes)"
                        raise _truncated(path, len(raw), needed)
                    return unpacked[:total]
            n_empty += total == start
    except zlib.error as error:
        raise VolumeError(path, "corrupt", f"its gzip stream is damaged ({error})", _AGAIN) from None
    if expected is not None and total <= limit and raw[at:].strip(b"\0"):
        raise VolumeError(path, "corrupt", f"{len(raw) - at} stray bytes follow its gzip stream", _AGAIN)
    return unpacked[:total]


def _read_header(path: Path, first: bytes, max_bytes: int) -> Header:
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
    n_channels = math.prod(sizes[3:])
    if n_channels != max(sizes[3:], default=1):
        what = f"its grid {sizes} has more than four dimensions"
        raise VolumeError(path, "five_dimensions", what, "save the 3-D volumes that are meant")
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
    dtype = np.dtype(order + _DATATYPES[code])
    needed = math.prod(sizes) * dtype.itemsize
    if needed > max_bytes:
        raise VolumeError(
            path,
            "too_large",
            f"its grid {sizes} needs {needed} bytes, over the cap of {max_bytes}",
            _SMALLER,
        )
    if unit_code(first) not in UNITS:
        what = f"its header gives lengths in the unit {unit_code(first)}, which the format does not know"
        raise VolumeError(path, "unknown_units", what, "write mm into `xyzt_units`")
    affine = affine_in_mm(first)
    if affine is None:
        what = "its affine is not finite, singular or of absurd voxel size"
        unit = UNITS[unit_code(first)][0]
        raise VolumeError(path, "bad_affine", f"{what} (in {unit})" if unit else what, "write a right sform")
    return Header(shape, n_channels, affine, first[:HEADER_BYTES], dtype, int(offset), slope, intercept)


def _canonical(data: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, affine))
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64)


def _check_channel(path: Path, header: Header, channel: int | None) -> None:
    if channel is None and header.n_channels > 1:
        raise VolumeError(
            path,
            "four_dimensions",
            f"its grid {(*header.shape, header.n_channels)} has four dimensions",
            "is the fourth the sequence or the time? Sequences: name them in a dataset.json (msd layout) or save one "
            "3-D file each; time: save the 3-D volume that is meant",
        )
    if channel is not None and not 0 <= channel < header.n_channels:
        channels = f"the channels 0..{header.n_channels - 1}"
        raise VolumeError(
            path, "no_such_channel", f"has {channels}, not {channel}", "correct the names of its channels"
        )


def _scaled(
    path: Path, voxels: NDArray[Any], header: Header, *, constant: bool, zero_nonfinite: bool
) -> tuple[NDArray[np.float32], int]:
    """Values that the stored numbers stand for, and how many of them were set to 0."""
    read = to_float32(voxels, header.slope, header.intercept)
    if read.n_nonfinite and not zero_nonfinite:
        raise VolumeError(
            path,
            "nonfinite_voxels",
            f"{read.n_nonfinite} of {voxels.size} voxels are NaN or infinite",
            "mend or leave out the file, or read it with nonfinite zero",
        )
    if fault := read.fault(exact=constant):
        raise VolumeError(path, "precision_lost", *fault)
    if not constant and read.data.min() == read.data.max():
        what = f"every voxel is {read.data.flat[0]:g}"
        raise VolumeError(path, "constant", what, "give the image that was scanned, or leave it out")
    return read.data, read.n_nonfinite


def _truncated(path: Path, found: int, needed: str) -> VolumeError:
    return VolumeError(path, "truncated", f"holds {found} bytes and needs {needed}", _AGAIN)
