"""2-D image files (PNG, JPEG, TIFF, NumPy), guarded like the volumes."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.case import ImageRef
from seglens.cohorts.volumes import VolumeError, read_whole
from seglens.foreign.arrays import ArrayError, parse_npy

if TYPE_CHECKING:
    import PIL.Image

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 2**26
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
_FORMATS = ("PNG", "JPEG", "TIFF")
_ORIENTATION = 274
"""The EXIF tag that says how a picture is to be turned before it is shown; 1: not at all."""
_AGAIN = "export the file again"
_BANDS = {"1", "L", "LA", "RGB", "RGBA", "I", "F"}


def read_plane(ref: ImageRef, *, constant: bool = False) -> tuple[NDArray[np.float32], str]:
    """Read one channel of a 2-D file; as `read_planes`."""
    planes, sha256 = read_planes([ref], constant=constant)
    return planes[0], sha256


def read_planes(refs: Sequence[ImageRef], *, constant: bool = False) -> tuple[list[NDArray[np.float32]], str]:
    """Read a PNG, JPEG, TIFF or .npy file once for all its channels; an array is [H W] or [H W channels].

    Args:
        refs: channels of one file, and whether their intensities are inverted.
        constant: also accept a channel in which every pixel is the same (an empty mask).

    Returns:
        For each ref pixels [H W] float32, rows from anterior to posterior, columns from right to left; and the sha256
        of the file's bytes.

    Raises:
        VolumeError: whatever is wrong with the file.
    """
    path = refs[0].path
    raw = read_whole(path, MAX_FILE_BYTES, smaller="crop it")
    pixels = _decode(path, raw)
    return [_plane(ref, pixels, constant=constant) for ref in refs], hashlib.sha256(raw).hexdigest()


def _plane(ref: ImageRef, pixels: NDArray[Any], *, constant: bool) -> NDArray[np.float32]:
    """One channel of the file's pixels, checked and turned."""
    path = ref.path
    if pixels.ndim == 3:
        pixels = _one_channel(ref, pixels)
    elif ref.channel not in (None, 0):
        raise VolumeError(
            path,
            "no_such_channel",
            f"has one channel, not a channel {ref.channel}",
            "correct `channels`; a grey picture is one sequence",
        )
    with np.errstate(over="ignore"):
        plane = pixels.astype(np.float32)
    if not np.isfinite(plane).all():  # as float32, in which all goes on: a larger number is infinite there
        raise VolumeError(path, "nonfinite_voxels", "some pixels are NaN or infinite", "mend or leave out the file")
    if not constant and plane.min() == plane.max():
        raise VolumeError(path, "constant", f"every pixel is {plane.flat[0]:g}", "leave the image out")
    if ref.inverted:
        if plane.max() > 255 or plane.min() < 0:
            raise VolumeError(
                path,
                "not_8_bit",
                f"values up to {plane.max():g} cannot be inverted at 255",
                "read it without `inverted`",
            )
        plane = np.where(plane > 0, 255 - plane, 0).astype(np.float32)
    return oriented(plane, ref.orientation)


def oriented(plane: NDArray[np.float32], orientation: str) -> NDArray[np.float32]:
    """The plane [H W] with rows to posterior and columns to left, from the `ImageRef.orientation` it is in."""
    if orientation[0] in "LR":
        plane, orientation = plane.T, orientation[::-1]
    return np.ascontiguousarray(plane[:: 1 if orientation[0] == "P" else -1, :: 1 if orientation[1] == "L" else -1])


def as_stored(plane: NDArray[Any], orientation: str) -> NDArray[Any]:
    """The inverse of `oriented`: a plane with rows to posterior and columns to left as the file has it."""
    turned = orientation[0] in "LR"
    rows, columns = (orientation[1], orientation[0]) if turned else (orientation[0], orientation[1])
    plane = plane[:: 1 if rows == "P" else -1, :: 1 if columns == "L" else -1]
    return np.ascontiguousarray(plane.T if turned else plane)


def _decode(path: Path, raw: bytes) -> NDArray[Any]:
    if path.suffix.lower() == ".npy":
        return _decode_array(path, raw)
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # formats are named, so that no other parser ever sees the bytes
            with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
                _refuse_unfit(path, image)
                return np.asarray(image)
    except VolumeError:
        raise
    except Image.DecompressionBombError as error:
        raise VolumeError(path, "too_large", f"is over {MAX_PIXELS} pixels ({error})", "crop it") from None
    except Exception as error:  # Pillow's parsers raise a dozen kinds; whichever, the file is not usable
        raise VolumeError(
            path, "corrupt", f"its {len(raw)} bytes are no readable PNG, JPEG or TIFF ({error})", _AGAIN
        ) from None


def _refuse_unfit(path: Path, image: "PIL.Image.Image") -> None:
    """Refuse a picture by what its header says, before a pixel is unpacked."""
    if image.width * image.height > MAX_PIXELS:
        raise VolumeError(path, "too_large", f"is {image.width} x {image.height} pixels", "crop it")
    if getattr(image, "n_frames", 1) > 1:
        raise VolumeError(path, "several_frames", "holds several pictures", "save one slice a file")
    if image.mode not in _BANDS and not image.mode.startswith("I;16"):
        raise VolumeError(
            path, "unknown_datatype", f"its pixels are of mode {image.mode}", "save it as grey, RGB or RGBA"
        )
    turned = image.getexif().get(_ORIENTATION, 1)
    if turned != 1:
        raise VolumeError(
            path,
            "exif_orientation",
            f"has the EXIF orientation {turned}: viewers show it turned, its pixels lie otherwise, and nothing says "
            "which its mask follows",
            "save it upright without that tag (`PIL.ImageOps.exif_transpose`) and look whether the mask fits",
        )


def _decode_array(path: Path, raw: bytes) -> NDArray[Any]:
    try:
        pixels = parse_npy(raw, str(path))
    except ArrayError as error:
        what, _, fix = str(error).removeprefix(f"{path}: ").rpartition("; ")
        raise VolumeError(path, "corrupt", what, fix) from None
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise VolumeError(path, "bad_dimensions", f"its array is {pixels.shape}", "save one slice a file, [H W]")
    return pixels


def _one_channel(ref: ImageRef, pixels: NDArray[Any]) -> NDArray[Any]:
    n = pixels.shape[2]
    if ref.channel is None:
        n_colours = n - 1 if n in (2, 4) and ref.path.suffix.lower() != ".npy" else n  # the last of a picture is alpha
        first, others, alpha = np.split(pixels, [1, n_colours], axis=2)
        if (others == first).all() and (alpha == 255).all():
            return pixels[..., 0]
        if (others == first).all():
            raise VolumeError(
                ref.path,
                "which_channel",
                "has transparent pixels",
                "save it without an alpha channel; for an image, `channels` may also name one",
            )
        raise VolumeError(
            ref.path,
            "which_channel",
            f"has {n} different channels",
            'for an image name one, such as `channels={"FLAIR": 1}`, or read colours as the sequences R, G and B; '
            "save a mask as one grey channel",
        )
    if not 0 <= ref.channel < n:
        raise VolumeError(
            ref.path, "no_such_channel", f"has the channels 0..{n - 1}, not {ref.channel}", "correct `channels`"
        )
    return pixels[..., ref.channel]
