"""2-D image files (PNG, JPEG, TIFF, NumPy), guarded like the volumes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seglens.cohorts.case import ImageRef
from seglens.cohorts.precision import to_float32
from seglens.cohorts.volumes import VolumeError, read_whole
from seglens.foreign import jpeg, png, tiff
from seglens.foreign.arrays import ArrayError, parse_npy
from seglens.foreign.pictures import PictureError, StoredPicture, damaged

MAX_FILE_BYTES = 256 * 2**20
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
_PARSERS: Mapping[bytes, Callable[[bytes], StoredPicture]] = {
    png.SIGNATURE: png.parse_png,
    jpeg.SIGNATURE: jpeg.parse_jpeg,
    **dict.fromkeys(tiff.SIGNATURES, tiff.parse_tiff),
}


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
    picture = _decode(path, raw)
    return [_plane(ref, picture, constant=constant) for ref in refs], hashlib.sha256(raw).hexdigest()


def _plane(ref: ImageRef, picture: StoredPicture, *, constant: bool) -> NDArray[np.float32]:
    """One channel of the picture, checked and turned."""
    path = ref.path
    read = to_float32(_one_channel(ref, picture))
    if read.n_nonfinite:
        raise VolumeError(path, "nonfinite_voxels", "some pixels are NaN or infinite", "mend or leave out the file")
    if fault := read.fault(exact=constant):
        raise VolumeError(path, "precision_lost", *fault)
    plane = read.data
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


def _decode(path: Path, raw: bytes) -> StoredPicture:
    if path.suffix.lower() == ".npy":
        pixels = _decode_array(path, raw)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return StoredPicture(pixels, pixels.shape[2], has_transparency=False)
    parse = next((parse for signature, parse in _PARSERS.items() if raw.startswith(signature)), None)
    try:
        if parse is None:
            raise damaged("it begins as none of them does")
        return parse(raw)
    except PictureError as error:
        what = error.what
        if error.code == "corrupt":
            what = f"its {len(raw)} bytes are no readable PNG, JPEG or TIFF ({what})"
        raise VolumeError(path, error.code, what, error.fix) from None


def _decode_array(path: Path, raw: bytes) -> NDArray[Any]:
    try:
        pixels = parse_npy(raw, str(path))
    except ArrayError as error:
        what, _, fix = str(error).removeprefix(f"{path}: ").rpartition("; ")
        raise VolumeError(path, "corrupt", what, fix) from None
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise VolumeError(path, "bad_dimensions", f"its array is {pixels.shape}", "save one slice a file, [H W]")
    return pixels


def _one_channel(ref: ImageRef, picture: StoredPicture) -> NDArray[Any]:
    """The channel [H W] that a ref means; without a number the one that all channels agree on."""
    pixels, n = picture.samples, picture.samples.shape[2]
    if ref.channel is None:
        colours = pixels[..., : picture.n_colours]
        if (colours[..., 1:] != colours[..., :1]).any():
            raise VolumeError(
                ref.path,
                "which_channel",
                f"has {n} different channels",
                'for an image name one, such as `channels={"FLAIR": 1}`, or read colours as the sequences R, G and B; '
                "save a mask as one grey channel",
            )
        if picture.has_transparency:
            raise VolumeError(
                ref.path,
                "which_channel",
                "has transparent pixels",
                "save it without transparency; for an image, `channels` may also name one",
            )
        return pixels[..., 0]
    if not 0 <= ref.channel < n:
        there = "one channel, not a channel" if n == 1 else f"the channels 0..{n - 1}, not"
        fix = "correct `channels`" + ("; a grey picture is one sequence" if n == 1 else "")
        raise VolumeError(ref.path, "no_such_channel", f"has {there} {ref.channel}", fix)
    return pixels[..., ref.channel]
