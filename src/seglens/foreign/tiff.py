"""TIFF files: one picture in strips or tiles, unpacked to the samples that are stored."""

import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.foreign.pictures import (
    MAX_PICTURE_BYTES,
    PictureError,
    StoredPicture,
    check_size,
    check_turn,
    damaged,
    is_see_through,
    xmp_orientation,
)
from seglens.foreign.tiff_segments import DEFLATE, LZW, NONE, PACKBITS, Order, TiffLayout, read_samples

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_SEGMENTS = 2**17
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
"""Of the types of values those that are whole numbers or bytes."""
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
_ORIENTATION, _N_SAMPLES, _ROWS, _PLANAR, _PREDICTOR = 274, 277, 278, 284, 317
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _TILE_WIDTH, _TILE_HEIGHT = 273, 279, 324, 325, 322, 323
_EXTRA, _KIND, _XMP, _DEPTH = 338, 339, 700, 32997
_READ = {value for name, value in list(globals().items()) if name[0] == "_" and isinstance(value, int)}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _COLOURS = 0, 1, 2
_DTYPES = {
    **{(1, bits): np.dtype(np.uint8) for bits in (1, 2, 4)},
    **{(code, bits): np.dtype(f"{kind}{bits // 8}") for code, kind in ((1, "u"), (2, "i")) for bits in (8, 16, 32, 64)},
    **{(3, bits): np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
}
"""Sample format and bits to the type of a sample."""
_IMAGEJ = re.compile(rb"ImageJ=.*\bimages=(\d+)", re.DOTALL)
_ANOTHER = "save it uncompressed or with LZW or deflate, as grey, RGB or RGBA"


def parse_tiff(raw: bytes) -> StoredPicture:
    """Read a TIFF or BigTIFF of one picture: grey or colours, in strips or tiles, of either byte order.

    Samples are the stored numbers (unsigned of 1, 2, 4 and 8 to 64 bits, signed of 8 to 64, floats of 16 to 64). Where
    the file says that 0 is white, unsigned samples are turned to black is 0: 2^bits - 1 - x, at every depth.

    Args:
        raw: the whole file, uncompressed or packed by LZW, deflate or PackBits, with or without a predictor.

    Returns:
        Samples [H W C] in the machine's byte order.

    Raises:
        PictureError: several pictures, a turn, another compression or photometric interpretation, strips that are
            missing, too short, too long or lie over each other.
    """
    order, tags = _tags(raw)
    photometric = _one(tags, _PHOTOMETRIC)
    layout = _layout(order, tags, len(raw))
    check_turn(_one(tags, _ORIENTATION, xmp_orientation(tags[_XMP].tobytes() if _XMP in tags else b"")))
    n_colours, n_alpha = _channels(tags, photometric, layout.n_samples)
    samples = read_samples(raw, layout)
    if photometric == _WHITE_IS_ZERO:
        if layout.dtype.kind != "u" or layout.n_samples != 1:
            raise PictureError(
                "unknown_datatype", "says that 0 is white of samples that have no largest value", "save black as 0"
            )
        samples = np.asarray(2**layout.bits - 1, layout.dtype) - samples
    opaque = 1 if layout.dtype.kind == "f" else 2 ** (layout.bits - (layout.dtype.kind == "i")) - 1
    hidden = is_see_through(samples[..., samples.shape[2] - n_alpha :], opaque)
    return StoredPicture(samples, n_colours, hidden)


def _tags(raw: bytes) -> tuple[Order, dict[int, NDArray[Any]]]:
    """Byte order and the tags that are looked at, of the first directory, which must be the only one."""
    order: Order = "<" if raw[:2] == b"II" else ">"
    big = raw[2:4] in (b"+\0", b"\0+")
    if big and struct.unpack_from(order + "2H", raw.ljust(16), 4) != (8, 0):
        raise damaged("its BigTIFF header is unknown")
    word, size, head = ("Q", 20, "Q") if big else ("I", 12, "H")
    at = _unpack(raw, order + word, 8 if big else 4)
    n_tags = _unpack(raw, order + head, at)
    start = at + struct.calcsize(head)
    end = start + n_tags * size
    following = _unpack(raw, order + word, end)
    tags: dict[int, NDArray[Any]] = {}
    for place in range(start, end, size):
        tag, kind = struct.unpack_from(order + "2H", raw, place)
        if tag not in _READ:
            continue
        count = _unpack(raw, order + word, place + 4)
        value_at = place + 4 + struct.calcsize(word)
        if tag in tags or kind not in _TYPES or not count:
            raise damaged(f"its tag {tag} stands there twice, or is of the type {kind} with {count} values")
        dtype = np.dtype(order + _TYPES[kind])
        if count * dtype.itemsize > struct.calcsize(word):
            value_at = _unpack(raw, order + word, value_at)
        if value_at + count * dtype.itemsize > len(raw):
            raise damaged(f"the {count} values of its tag {tag} lie behind its end")
        tags[tag] = np.frombuffer(raw, dtype, count, value_at)
    stack = _IMAGEJ.search(tags[_DESCRIPTION].tobytes()) if _DESCRIPTION in tags else None
    if following or (stack is not None and int(stack[1][:9]) > 1):
        raise PictureError("several_frames", "holds several pictures", "save one slice a file")
    return order, tags


def _unpack(raw: bytes, kind: str, at: int) -> int:
    if at + struct.calcsize(kind) > len(raw):
        raise damaged(f"its directory lies behind its end, at byte {at}")
    return int(struct.unpack_from(kind, raw, at)[0])


def _one(tags: dict[int, NDArray[Any]], tag: int, default: int | None = None) -> int:
    """The one value of a tag, or of as many equal ones as there are samples."""
    values = tags.get(tag)
    if values is None:
        if default is None:
            raise damaged(f"its tag {tag} is missing")
        return default
    if (values != values[0]).any() or (len(values) > 1 and tag not in (_BITS, _KIND)):
        raise PictureError("unknown_datatype", f"has different values for its tag {tag}", "save all channels alike")
    return int(values[0])


def _layout(order: Order, tags: dict[int, NDArray[Any]], n_bytes: int) -> TiffLayout:
    width, height, n_samples = _one(tags, _WIDTH), _one(tags, _HEIGHT), _one(tags, _N_SAMPLES, 1)
    bits, kind, compression = _one(tags, _BITS, 1), _one(tags, _KIND, 1), _one(tags, _COMPRESSION, NONE)
    check_size(width, height, bits * n_samples)
    predictor, planar, tiled = _one(tags, _PREDICTOR, 1), _one(tags, _PLANAR, 1), _TILES in tags
    dtype = _DTYPES.get((1 if kind == 4 else kind, bits))  # 4: not said what they are
    if dtype is None or n_samples < 1:
        raise PictureError(
            "unknown_datatype", f"its samples are of format {kind} with {bits} bits", "save it with 8 or 16 bits"
        )
    plain = compression in (NONE, PACKBITS) or bits < 8 or (bits == 64 and dtype.kind != "f")
    legal = {1} if plain else {1, 3 if dtype.kind == "f" else 2}
    if (
        compression not in (NONE, LZW, PACKBITS, *DEFLATE)
        or predictor not in legal
        or planar not in (1, 2)
        or _one(tags, _FILL_ORDER, 1) != 1
        or _one(tags, _DEPTH, 1) != 1
        or (tiled and _STRIPS in tags)
    ):
        what = f"is packed in a way that is not read (compression {compression}, predictor {predictor})"
        raise PictureError("unknown_datatype", what, _ANOTHER)
    rows = _one(tags, _TILE_HEIGHT) if tiled else min(_one(tags, _ROWS, height), height)
    columns = _one(tags, _TILE_WIDTH) if tiled else width
    offsets, counts = tags.get(_TILES if tiled else _STRIPS), tags.get(_TILE_BYTES if tiled else _STRIP_BYTES)
    n_planes = n_samples if planar == 2 else 1
    if rows < 1 or columns < 1 or offsets is None or counts is None:
        raise damaged("it does not say where its pixels are")
    n_segments = n_planes * -(-height // rows) * -(-width // columns)
    if len(offsets) != n_segments or len(counts) != n_segments:
        raise damaged(f"it has {len(offsets)} strips or tiles with {len(counts)} lengths, and needs {n_segments}")
    unpacked = n_segments * rows * columns * bits * n_samples // n_planes // 8
    if n_segments > MAX_SEGMENTS or unpacked > MAX_PICTURE_BYTES:
        raise PictureError("too_large", f"holds {n_segments} strips or tiles of {unpacked} bytes", "crop it")
    where, sizes = offsets.astype(np.float64), counts.astype(np.float64)  # which cannot overflow
    if where.min() < 8 or sizes.min() < 1 or (where + sizes).max() > n_bytes:
        raise damaged(f"some of its strips or tiles lie outside of its {n_bytes} bytes, or are empty")
    starts, lengths = offsets.astype(np.int64), counts.astype(np.int64)
    turn = np.argsort(starts, kind="stable")
    if ((starts + lengths)[turn][:-1] > starts[turn][1:]).any():
        raise damaged("its strips or tiles lie over each other")
    return TiffLayout(
        order,
        width,
        height,
        n_samples,
        bits,
        dtype,
        compression,
        predictor,
        n_planes,
        tiled,
        rows,
        columns,
        starts,
        lengths,
    )


def _channels(tags: dict[int, NDArray[Any]], photometric: int, n_samples: int) -> tuple[int, int]:
    """How many channels are no alpha, and how many are."""
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _COLOURS):
        raise PictureError(
            "unknown_datatype",
            f"its samples are no grey and no RGB (photometric interpretation {photometric})",
            _ANOTHER,
        )
    n_extra = n_samples - (3 if photometric == _COLOURS else 1)
    extra = tags.get(_EXTRA, np.zeros(max(n_extra, 0), np.uint8))
    if n_extra < 0 or len(extra) != n_extra:
        raise damaged(f"it has {n_samples} channels, {len(extra)} of them extra, for photometric {photometric}")
    n_alpha = int(n_extra == 1 and extra[0] in (1, 2))
    return n_samples - n_alpha, n_alpha
