"""Pictures that others made: the values that the file stores, every one of them, or a refusal."""

import re
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 2**26
MAX_PICTURE_BYTES = 2**29
"""Of all samples, unpacked; known from the header and compared before anything is unpacked."""
DEFLATE_LIMIT = 1032
"""No deflate stream unfolds to more times its own size."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_AGAIN = "export the file again"


class PictureError(ValueError):
    """A picture that cannot be used.

    Attributes:
        code: what kind of fault, stable, for programs.
        what: what was found, without anything that changes between runs.
        fix: what to do.
    """

    def __init__(self, code: str, what: str, fix: str = _AGAIN):
        super().__init__(f"{what}; {fix}")
        self.code = code
        self.what = what
        self.fix = fix


@dataclass(frozen=True, eq=False)
class StoredPicture:
    """Samples of a picture, as stored.

    Attributes:
        samples: [H W C] in the file's own number type; sub-byte depths as uint8.
        n_colours: channels that are grey or colours; those behind them are alpha.
        has_transparency: some pixel is not opaque, by its alpha or because its value was declared transparent.
    """

    samples: NDArray[Any]
    n_colours: int
    has_transparency: bool


def damaged(reason: str) -> PictureError:
    """A refusal of a file that contradicts its format or itself."""
    return PictureError("corrupt", reason)


def check_size(width: int, height: int, bits_a_pixel: int) -> None:
    """Refuse an absurd size by what a header says, before memory is taken.

    Raises:
        PictureError: no pixels at all, too many, or too many bytes of them.
    """
    if width < 1 or height < 1:
        raise damaged(f"its header says {width} x {height} pixels")
    if width * height > MAX_PIXELS or width * height * bits_a_pixel > 8 * MAX_PICTURE_BYTES:
        raise PictureError("too_large", f"is {width} x {height} pixels of {bits_a_pixel} bits", "crop it")


def check_turn(orientation: object) -> None:
    """Refuse a picture that viewers show turned.

    Args:
        orientation: value of the EXIF tag 274; 1: not turned.

    Raises:
        PictureError: any other value.
    """
    if orientation != 1:
        raise PictureError(
            "exif_orientation",
            f"has the EXIF orientation {str(orientation)[:20]}: viewers show it turned, its pixels lie otherwise, and "
            "nothing says which its mask follows",
            "save it upright without that tag (`PIL.ImageOps.exif_transpose`) and look whether the mask fits",
        )


def xmp_orientation(text: bytes) -> int:
    """The orientation that an XMP packet gives; 1 where it gives none."""
    match = _XMP_ORIENTATION.search(text)
    return int(match[1]) if match else 1


def inflate(packed: bytes | memoryview, n_bytes: int, padded: int = 0) -> bytes:
    """Unpack a zlib stream that must hold so many bytes, no fewer and no more, up to its checksum.

    Args:
        packed: the stream.
        n_bytes: that it holds.
        padded: another number of bytes that it may hold.

    Raises:
        PictureError: another length, a damaged or unfinished stream, or bytes behind it.
    """
    most = max(n_bytes, padded)
    if n_bytes > len(packed) * DEFLATE_LIMIT:
        raise damaged(f"{len(packed)} packed bytes cannot unfold to the {n_bytes} that its header announces")
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed, most)
        surplus = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise damaged(f"its deflate stream is damaged: {error}") from None
    if len(content) < n_bytes or not (stream.eof or surplus):
        raise damaged(f"its deflate stream breaks off after {len(content)} of {n_bytes} bytes")
    if surplus or len(content) not in (n_bytes, padded):
        raise damaged(f"its deflate stream holds more than the {n_bytes} bytes that its header announces")
    if stream.unused_data.strip(b"\0"):
        raise damaged(f"{len(stream.unused_data)} stray bytes follow its deflate stream")
    return content


def is_see_through(alpha: NDArray[Any], opaque: int) -> bool:
    """Whether any sample of the alpha channels [H W n] is less than opaque."""
    return bool(alpha.size and (alpha != np.asarray(opaque, alpha.dtype)).any())
