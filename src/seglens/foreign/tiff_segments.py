"""Strips and tiles of a TIFF: unpacked, their predictor undone, and put together."""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seglens.foreign.pictures import MAX_PIXELS, PictureError, damaged, inflate

NONE, LZW, PACKBITS, DEFLATE = 1, 5, 32773, (8, 32946)
MAX_UNFOLDING = {LZW: 4096, PACKBITS: 64}
"""Bytes that a packed byte can stand for."""
_HORIZONTAL, _FLOATS = 2, 3
Order = Literal["<", ">"]


@dataclass(frozen=True, eq=False)
class TiffLayout:
    """Where the samples of a picture are, and how they are packed.

    Attributes:
        order: of bytes, ``"<"`` or ``">"``.
        width: of the picture.
        height: of the picture.
        n_samples: a pixel.
        bits: a sample.
        dtype: of a sample, in the machine's own order.
        compression: of the format's numbers.
        predictor: of the format's numbers; 1: none.
        n_planes: ``n_samples`` where each channel has strips or tiles of its own, else 1.
        tiled: all segments are of one size, and reach beyond the picture.
        rows: of a segment.
        columns: of a segment.
        starts: first byte of each segment.
        lengths: bytes of each segment.
    """

    order: Order
    width: int
    height: int
    n_samples: int
    bits: int
    dtype: np.dtype[Any]
    compression: int
    predictor: int
    n_planes: int
    tiled: bool
    rows: int
    columns: int
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def n_interleaved(self) -> int:
        """Samples of a pixel that lie side by side."""
        return self.n_samples // self.n_planes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a segment."""
        return -(-self.columns * self.n_interleaved * self.bits // 8)


def read_samples(raw: bytes, layout: TiffLayout) -> NDArray[Any]:
    """Unpack all segments.

    Args:
        raw: the whole file.
        layout: checked against the file's size.

    Returns:
        Samples [H W C].

    Raises:
        PictureError: a segment that is damaged or does not hold all of its rows, or more.
    """
    samples = np.empty((layout.height, layout.width, layout.n_samples), layout.dtype)
    tops, lefts = range(0, layout.height, layout.rows), range(0, layout.width, layout.columns)
    n = len(tops) * len(lefts)
    for plane in range(layout.n_planes):
        channels = slice(None) if layout.n_planes == 1 else slice(plane, plane + 1)
        places = [(top, left) for top in tops for left in lefts]
        n_rows = [layout.rows if layout.tiled else min(layout.rows, layout.height - top) for top, _ in places]
        packed = [
            memoryview(raw)[start : start + length]
            for start, length in zip(
                layout.starts[plane * n :][:n].tolist(), layout.lengths[plane * n :][:n].tolist(), strict=True
            )
        ]
        for (top, left), content in zip(places, _unpacked(packed, n_rows, layout), strict=True):
            block = _block(content, layout)
            inside = samples[top : top + layout.rows, left : left + layout.columns, channels]
            inside[...] = block[: inside.shape[0], : inside.shape[1]]
    return samples


def _unpacked(packed: Sequence[memoryview], n_rows: Sequence[int], layout: TiffLayout) -> Iterator[bytes | memoryview]:
    """The bytes of the segments of a plane."""
    if layout.compression in (LZW, PACKBITS):
        yield from _unpack_by_libtiff(packed, n_rows, layout)
        return
    whole = layout.rows * layout.row_bytes
    for content, rows in zip(packed, n_rows, strict=True):
        n_bytes = rows * layout.row_bytes
        if layout.compression in DEFLATE:
            unpacked: bytes | memoryview = inflate(content, n_bytes, whole)
        elif n_bytes <= len(content) <= n_bytes + 1 or len(content) == whole:
            unpacked = content  # some writers fill up to an even number, others the last strip to its full height
        else:
            raise damaged(f"a strip or tile holds {len(content)} bytes and needs {n_bytes}")
        yield unpacked[:n_bytes]


def _unpack_by_libtiff(packed: Sequence[memoryview], n_rows: Sequence[int], layout: TiffLayout) -> Iterator[bytes]:
    """The bytes of the segments of a plane, by Pillow's libtiff: as the strips of a grey picture of single bytes."""
    limit = MAX_UNFOLDING[layout.compression]
    for content, count in zip(packed, n_rows, strict=True):
        if count * layout.row_bytes > limit * len(content):
            raise damaged(f"a strip or tile of {len(content)} bytes cannot unfold to {count * layout.row_bytes}")
    at_once = max(1, MAX_PIXELS // (layout.rows * layout.row_bytes))
    for first in range(0, len(packed), at_once):
        some, rows = packed[first : first + at_once], n_rows[first : first + at_once]
        pixels = _grey(some, sum(rows), layout)
        at = 0
        for count in rows:
            yield pixels[at * layout.row_bytes : (at + count) * layout.row_bytes]
            at += count


def _grey(strips: Sequence[memoryview], height: int, layout: TiffLayout) -> bytes:
    from PIL import Image

    n, data = len(strips), b"".join(strips)
    data += b"\0" * (len(data) % 2)
    starts = np.cumsum([8, *(len(strip) for strip in strips[:-1])]).astype("<u4").tobytes()
    lengths = np.array([len(strip) for strip in strips], "<u4").tobytes()
    lists_at = 8 + len(data)
    entries = [
        (256, 1, layout.row_bytes),
        (257, 1, height),
        (258, 1, 8),
        (259, 1, layout.compression),
        (262, 1, 1),
        (273, n, lists_at if n > 1 else 8),
        (277, 1, 1),
        (278, 1, min(layout.rows, height)),
        (279, n, lists_at + 4 * n if n > 1 else len(strips[0])),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<2H2I", tag, 4, count, value) for tag, count, value in entries) + bytes(4)
    whole = b"II*\0" + struct.pack("<I", lists_at + 8 * n) + data + starts + lengths + directory
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(whole), formats=("TIFF",)) as image:
                return np.asarray(image).tobytes()
    except Image.DecompressionBombError:
        raise PictureError("too_large", f"has a strip of {layout.rows} rows", "save it in smaller strips") from None
    except Exception as error:  # Pillow's parsers raise a dozen kinds, some with addresses in their text
        raise damaged(f"its strips or tiles cannot be unpacked: Pillow raises {type(error).__name__}") from None


def _block(content: bytes | memoryview, layout: TiffLayout) -> NDArray[Any]:
    """Samples [rows columns n_interleaved] of a segment's bytes."""
    lines = np.frombuffer(content, np.uint8).reshape(-1, layout.row_bytes)
    shape = (len(lines), layout.columns, layout.n_interleaved)
    if layout.bits < 8:
        single = np.unpackbits(lines, axis=1).reshape(len(lines), -1, layout.bits)
        weights = (1 << np.arange(layout.bits)[::-1]).astype(np.uint8)
        values = (single * weights).sum(axis=2, dtype=np.uint8)
        return values[:, : layout.columns * layout.n_interleaved].reshape(shape)
    if layout.predictor == _FLOATS:
        steps = lines.reshape(len(lines), -1, layout.n_interleaved)
        whole = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(len(lines), layout.dtype.itemsize, -1)
        ordered = np.ascontiguousarray(whole.transpose(0, 2, 1))
        return ordered.view(layout.dtype.newbyteorder(">")).astype(layout.dtype).reshape(shape)
    values = lines.view(layout.dtype.newbyteorder(layout.order)).astype(layout.dtype).reshape(shape)
    if layout.predictor == _HORIZONTAL:
        unsigned = np.dtype(f"u{layout.dtype.itemsize}")
        return np.cumsum(values.view(unsigned), axis=1, dtype=unsigned).view(layout.dtype)
    return values
