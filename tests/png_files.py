"""PNG files of any kind, written chunk by chunk and filter by filter."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgba": 6}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int, colour: int, *, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, int(interlaced)))


def rows_of(samples: np.ndarray, depth: int, filters: Sequence[int], *, interlaced: bool = False) -> bytes:
    """Filtered rows of samples [H W C], before they are packed; the filters take turns."""
    made, number = bytearray(), 0
    for top, left, down, right in PASSES if interlaced else [(0, 0, 1, 1)]:
        part = samples[top::down, left::right]
        step = max(1, samples.shape[2] * depth // 8)
        above = None
        for row in part if part.size else ():
            line = packed_row(row.reshape(-1), depth)
            above = bytes(len(line)) if above is None else above
            kind = filters[number % len(filters)]
            made += bytes([kind]) + bytes(
                (value - predicted(kind, line, above, place, step)) % 256 for place, value in enumerate(line)
            )
            above, number = line, number + 1
    return bytes(made)


def packed_row(values: np.ndarray, depth: int) -> bytes:
    if depth >= 8:
        return values.astype(f">u{depth // 8}").tobytes()
    bits = "".join(f"{value:0{depth}b}" for value in values.tolist())
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def predicted(kind: int, line: bytes, above: bytes, place: int, step: int) -> int:
    left = line[place - step] if place >= step else 0
    corner = above[place - step] if place >= step else 0
    up = above[place]
    guess = left + up - corner
    nearest = min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2, nearest)[kind]


def png_file(
    samples: np.ndarray,
    depth: int,
    colour: int,
    *,
    filters: Sequence[int] = (0, 1, 2, 3, 4),
    interlaced: bool = False,
    pieces: int = 1,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG.

    Args:
        samples: [H W C] whole numbers below 2^depth.
        depth: bits a sample.
        colour: the format's number of the colour type.
        filters: of the rows in turn, 0 to 4.
        interlaced: in Adam7's seven passes.
        pieces: chunks that the packed pixels are split to.
        before: chunks before the pixels.
        after: chunks after them.
    """
    packed = zlib.compress(rows_of(samples, depth, filters, interlaced=interlaced))
    size = -(-len(packed) // pieces)
    pixels = b"".join(chunk(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size))
    palette = chunk(b"PLTE", bytes(3 * 2**depth)) if colour == 3 else b""
    first = header(samples.shape[1], samples.shape[0], depth, colour, interlaced=interlaced)
    return SIGNATURE + first + palette + before + pixels + after + chunk(b"IEND")
