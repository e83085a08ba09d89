"""PNG files: every chunk's checksum and every row is checked, and samples come out as they are stored."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.foreign.pictures import (
    PictureError,
    StoredPicture,
    check_size,
    check_turn,
    damaged,
    inflate,
    is_see_through,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 2**17
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)}
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, step of rows and of columns of Adam7's seven passes."""
_ONCE = (b"IHDR", b"tRNS", b"eXIf", b"acTL")
_SHADES = {1: 1, 2: 85, 4: 17}
"""By how much Pillow multiplies grey samples of few bits."""


def parse_png(raw: bytes) -> StoredPicture:
    """Read a PNG of grey or colours, of 1 to 16 bits a sample, interlaced or not.

    Samples are the stored numbers: 0..3 where a grey sample has 2 bits, 0..65535 where it has 16. Gamma, colour
    profiles and ``sBIT`` are not applied.

    Args:
        raw: the whole file.

    Returns:
        Samples [H W C]: 1 (grey), 2 (grey, alpha), 3 or 4 channels of uint8 or uint16.

    Raises:
        PictureError: a palette, several pictures, a turn, a checksum that differs, rows that are missing or too many,
            bytes behind the end, or anything else that the format forbids.
    """
    first: dict[bytes, memoryview] = {}
    parts: list[memoryview] = []
    last = b""
    for kind, content in _chunks(raw):
        if (kind == b"IHDR") != (not first) or (kind in _ONCE and kind in first):
            raise damaged(f"its chunk {_text(kind)} stands in the wrong place, or twice")
        if kind == b"IDAT":
            if parts and last != b"IDAT":
                raise damaged("its pixels are torn by another chunk")
            parts.append(content)
        elif kind[:1].isupper() and kind not in (b"IHDR", b"PLTE", b"IEND"):
            raise damaged(f"its chunk {_text(kind)} is needed to read it and unknown")
        first.setdefault(kind, content)
        last = kind
    if not parts:
        raise damaged("it holds no pixels")
    width, height, depth, colour, interlaced = _header(bytes(first[b"IHDR"]))
    if b"fdAT" in first or (b"acTL" in first and bytes(first[b"acTL"][:4]) != struct.pack(">I", 1)):
        raise PictureError("several_frames", "holds several pictures", "save one slice a file")
    if colour == _PALETTE:
        raise PictureError(
            "unknown_datatype",
            "its pixels are of a palette: whether the index counts or the colour, nothing says",
            "save it as grey (labels, or intensities), RGB or RGBA",
        )
    stream = b"".join(parts)
    _check_rows(stream, width, height, depth * _CHANNELS[colour], interlaced)
    samples = _samples(raw, stream, bytes(first[b"IHDR"]))
    n_colours = 1 if colour in (_GREY, _GREY_ALPHA) else 3
    hidden = is_see_through(samples[..., n_colours:], 2**depth - 1)
    if b"tRNS" in first:
        hidden = hidden or _is_keyed(samples, bytes(first[b"tRNS"]), colour, depth)
    return StoredPicture(samples, n_colours, hidden)


def _chunks(raw: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk to the end, with its checksum compared."""
    view, at = memoryview(raw), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(raw):
            raise damaged("it is cut short between two chunks")
        length, kind = struct.unpack_from(">I4s", raw, at)
        end = at + 12 + length
        if not (kind.isalpha() and kind.isascii()):
            raise damaged(f"a chunk's kind is {kind!r}")
        if end > len(raw):
            raise damaged(f"its chunk {_text(kind)} is cut short: {len(raw) - at - 12} of {length} bytes")
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", raw, end - 4)[0]:
            raise damaged(f"the checksum of its chunk {_text(kind)} at byte {at} differs")
        yield kind, view[at + 8 : end - 4]
        at = end
        if kind == b"IEND":
            if length or raw[at:].strip(b"\0"):
                raise damaged(f"{length + len(raw) - at} stray bytes follow its end")
            return
    raise damaged(f"it has more than {MAX_CHUNKS} chunks")


def _text(kind: bytes) -> str:
    return kind.decode("ascii")


def _header(content: bytes) -> tuple[int, int, int, int, bool]:
    if len(content) != 13:
        raise damaged(f"its header holds {len(content)} bytes, not 13")
    width, height, depth, colour, packing, filtering, interlacing = struct.unpack(">2I5B", content)
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlacing > 1:
        raise damaged(
            f"its header has the colour type {colour} with {depth} bits and {packing}, {filtering}, "
            f"{interlacing} for packing, filters and interlacing"
        )
    check_size(width, height, depth * _CHANNELS[colour])
    return width, height, depth, colour, bool(interlacing)


def _check_rows(stream: bytes, width: int, height: int, bits: int, interlaced: bool) -> None:
    """Refuse a stream that does not hold every row, or more."""
    n_bytes = 0
    for top, left, down, right in _PASSES if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // right)
        if rows > 0 and columns > 0:
            n_bytes += rows * (1 + -(-columns * bits // 8))
    inflate(stream, n_bytes)


def _samples(raw: bytes, stream: bytes, header: bytes) -> NDArray[Any]:
    """Samples [H W C], by Pillow's filters; where it would drop the low byte of 16 bits, by a second look."""
    depth, colour = header[8], header[9]
    pixels = _decode(raw)
    if depth == 16 and colour == _GREY_ALPHA:  # the same bytes a pixel, and the same filters, as 8-bit RGBA
        pixels = _decode(_simple(header[:8] + bytes([8, _RGBA]) + header[10:], stream))
        return pixels[..., 0::2].astype(np.uint16) << 8 | pixels[..., 1::2]
    if depth == 16 and colour != _GREY:
        low = _decode(raw, "RGB;16L" if colour == _RGB else "RGBA;16L")  # of swapped pairs the high byte: the low one
        return pixels.astype(np.uint16) << 8 | low
    if depth < 8:
        pixels = pixels.astype(np.uint8) // np.uint8(_SHADES[depth])
    return pixels.reshape(*pixels.shape[:2], _CHANNELS[colour])


def _decode(raw: bytes, raw_mode: str | None = None) -> NDArray[Any]:
    """Pillow's pixels, and its view of the turn that EXIF or XMP ask for."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(raw), formats=("PNG",)) as image:
            warnings.simplefilter("ignore")
            if raw_mode is not None:
                image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
            pixels = np.asarray(image)
            orientation = image.getexif().get(274, 1)
    except Exception as error:  # Pillow's parsers raise a dozen kinds, some with addresses in their text
        raise damaged(f"Pillow's decoder raises {type(error).__name__}") from None
    check_turn(orientation)
    return pixels


def _simple(header: bytes, stream: bytes) -> bytes:
    """A PNG of nothing but this header and these packed pixels."""
    made = [SIGNATURE]
    for kind, content in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")):
        made += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(made)


def _is_keyed(samples: NDArray[Any], key: bytes, colour: int, depth: int) -> bool:
    """Whether some pixel has the one value that is declared transparent."""
    if colour not in (_GREY, _RGB) or len(key) != 2 * samples.shape[2]:
        raise damaged(f"its chunk tRNS holds {len(key)} bytes")
    values = np.frombuffer(key, ">u2") & (2**depth - 1)
    return bool((samples == values).all(axis=2).any())
