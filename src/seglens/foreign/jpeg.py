"""JPEG files, decoded by Pillow, that hold all the data of all their scans."""

import io
import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.foreign.pictures import PictureError, StoredPicture, check_size, check_turn, damaged

SIGNATURE = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PADDING = b"\xa5\x5a\xc3" * 24
"""Bits that no decoder would add by itself: where data is missing it adds zeros."""


def parse_jpeg(raw: bytes) -> StoredPicture:
    """Read a JPEG of grey or colours as Pillow (libjpeg) shows it.

    JPEG has no checksum and libjpeg fills up what is missing in silence. So the pixels are decoded twice, the second
    time with foreign bits behind each scan: where a scan is complete nobody reads them.

    Args:
        raw: the whole file.

    Returns:
        Samples [H W C], uint8, of 1 or 3 channels.

    Raises:
        PictureError: a file that is cut short or whose data is, several pictures, printing inks, a turn.
    """
    ends = _scan_ends(raw)
    pixels = _decode(raw)
    pieces = [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]
    if not np.array_equal(pixels, _decode(_PADDING.join(pieces))):
        raise damaged("the data of a scan breaks off before its last pixel")
    return StoredPicture(pixels, pixels.shape[2], has_transparency=False)


def _scan_ends(raw: bytes) -> list[int]:
    """Where the packed data of each scan, or of each part of one between restarts, ends.

    Together the scans must give every coefficient of every component to its last bit.
    """
    ends: list[int] = []
    at, in_scan = 2, False
    missing: set[tuple[int, int]] = set()
    while True:
        match = _MARKER.search(raw, at) if in_scan else _MARKER.match(raw, at)
        if match is None:
            raise damaged("it is cut short, or no marker stands where one is due")
        code, at = match[1][0], match.end()
        if in_scan:
            ends.append(match.start())
        if in_scan and code in _RESTARTS:
            continue
        if code == _END:
            break
        if code in _RESTARTS or code == _START:
            raise damaged("a marker stands in the wrong place")
        in_scan = code == _SCAN
        segment = raw[at + 2 : at + int.from_bytes(raw[at : at + 2], "big")]
        at += 2 + len(segment)
        if code in _FRAMES:
            missing = {(component, number) for component in segment[6::3] for number in range(64)}
        elif in_scan and len(segment) > 3 and segment[-1] % 16 == 0:  # to the last bit
            numbers = range(segment[-3], segment[-2] + 1)
            missing -= {(component, number) for component in segment[1:-3:2] for number in numbers}
    if not ends:
        raise damaged("it holds no pixels")
    if missing:
        raise damaged("some of its scans are missing")
    if SIGNATURE in raw[at:]:
        raise PictureError("several_frames", "holds several pictures", "save one slice a file")
    return ends


def _decode(raw: bytes) -> NDArray[Any]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # formats are named, so that no other parser ever sees the bytes
            with Image.open(io.BytesIO(raw), formats=("JPEG",)) as image:
                check_size(image.width, image.height, 8 * len(image.getbands()))
                if getattr(image, "n_frames", 1) > 1:
                    raise PictureError("several_frames", "holds several pictures", "save one slice a file")
                if image.mode not in ("L", "RGB"):
                    what = f"its pixels are of mode {image.mode}"
                    raise PictureError("unknown_datatype", what, "save it as grey or RGB")
                check_turn(image.getexif().get(274, 1))
                pixels = np.asarray(image)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError("too_large", "is larger than Pillow opens", "crop it") from None
    except Exception as error:  # Pillow's parsers raise a dozen kinds, some with addresses in their text
        raise damaged(f"Pillow's decoder raises {type(error).__name__}") from None
    return pixels.reshape(*pixels.shape[:2], -1)
