"""Slices as images in the page: masks over a scan, heat maps over a scan, prediction before and after."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from seglens.reports.palette import INFERNO, intensities, rgb

PREFERRED = {
    "edema": ("FLAIR", "T2"),
    "enhancing": ("T1c",),
    "necrotic_core": ("T1c",),
    "tumour": ("FLAIR", "T1c"),
}
"""Sequences on which a class is seen best."""
COLOURS = 96
"""Colours of a stored image: enough for a grey scan under a tint, a third of the bytes of full colour."""


def best_sequence(sequences: Sequence[str], name: str | None = None) -> int:
    """The channel on which a class (or, without one, any lesion) is seen best; the first where none is known."""
    wanted = PREFERRED.get(name or "", ()) if name else ("FLAIR", "T1c", "T2", "T1")
    if not any(sequence in sequences for sequence in wanted):
        wanted = ("T1",)
    return next((sequences.index(sequence) for sequence in wanted if sequence in sequences), 0)


def grey(image: Float[np.ndarray, "H W"], brain: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A normalised slice as grey levels, windowed to the 1st to 99.5th percentile of the brain; black outside."""
    inside = image[brain]
    low, high = (0.0, 1.0) if inside.size == 0 else np.percentile(inside, [1, 99.5])
    levels = np.where(brain, intensities(image, float(low) - 0.15 * float(high - low), float(high)), 0)
    return np.repeat(levels[..., None].astype(np.uint8), 3, axis=2)


def crop_of(brain: Bool[np.ndarray, "H W"], margin: float = 0.04) -> tuple[int, int, int]:
    """The square around the brain: its top row, left column and side, inside the slice; all of an empty slice."""
    height, width = brain.shape
    largest = min(height, width)
    rows, columns = np.nonzero(brain.any(1))[0], np.nonzero(brain.any(0))[0]
    if rows.size == 0:
        return 0, 0, largest
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 + 2 * margin * largest)
    side = min(largest, max(side, largest // 4))
    top = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, width - side))
    return top, left, side


def outline(region: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels of a region that touch its outside."""
    padded = np.pad(region, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~core


def enlarged(array: np.ndarray, side: int, *, smooth: bool) -> np.ndarray:
    """An image or mask (uint8) or a map (float32) resized to ``side`` x ``side``."""
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize((side, side), how))


def with_mask(
    scan: UInt8[np.ndarray, "S S 3"], mask: UInt8[np.ndarray, "S S"], colours: Mapping[int, str], opacity: float = 0.3
) -> UInt8[np.ndarray, "S S 3"]:
    """The scan with each class tinted and outlined in its colour."""
    tinted = scan.astype(np.float32)
    for value, colour in colours.items():
        region = mask == value
        paint = np.array(rgb(colour), dtype=np.float32)
        tinted[region] = (1 - opacity) * tinted[region] + opacity * paint
        tinted[outline(region)] = 0.15 * tinted[outline(region)] + 0.85 * paint
    return tinted.round().astype(np.uint8)


def with_heat(
    scan: UInt8[np.ndarray, "S S 3"], heat: Float[np.ndarray, "S S"], region: Bool[np.ndarray, "S S"] | None = None
) -> UInt8[np.ndarray, "S S 3"]:
    """The scan with a heat map over it.

    Args:
        scan: grey levels.
        heat: 0..1; nothing is painted where it is 0.
        region: outlined in white, for example the class that a latent is named after.
    """
    clipped = np.clip(heat, 0, 1)
    paint = INFERNO[(55 + clipped * 200).round().astype(np.int64)].astype(np.float32)
    weight = np.minimum(1.0, clipped * 1.6)[..., None] * 0.85
    mixed = (1 - weight) * scan.astype(np.float32) + weight * paint
    if region is not None:
        mixed[outline(region)] = (255, 255, 255)
    return mixed.round().astype(np.uint8)


def data_uri(pixels: UInt8[np.ndarray, "S T 3"]) -> str:
    """The pixels as a PNG inside an address, with few colours to stay small."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    reduced = image.quantize(colors=COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = BytesIO()
    reduced.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scan_of(
    image: Float[np.ndarray, "H W"], brain: Bool[np.ndarray, "H W"], side: int
) -> tuple[UInt8[np.ndarray, "S S 3"], tuple[int, int, int]]:
    """The grey scan, cropped to the brain and enlarged, and where it was cropped."""
    top, left, extent = crop_of(brain)
    cropped = grey(image, brain)[top : top + extent, left : left + extent]
    return enlarged(np.ascontiguousarray(cropped), side, smooth=True), (top, left, extent)


def mask_picture(
    image: Float[np.ndarray, "H W"],
    brain: Bool[np.ndarray, "H W"],
    mask: UInt8[np.ndarray, "H W"] | None,
    colours: Mapping[int, str],
    side: int = 208,
) -> str:
    """A slice with its labels, as an address; without a mask, the bare scan."""
    scan, (top, left, extent) = scan_of(image, brain, side)
    if mask is None:
        return data_uri(scan)
    cropped = np.ascontiguousarray(mask[top : top + extent, left : left + extent].astype(np.uint8))
    return data_uri(with_mask(scan, enlarged(cropped, side, smooth=False), colours))


def heat_picture(
    image: Float[np.ndarray, "H W"],
    brain: Bool[np.ndarray, "H W"],
    grid: Float[np.ndarray, "h w"],
    strongest: float,
    *,
    region: Bool[np.ndarray, "H W"] | None = None,
    side: int = 144,
) -> str:
    """A slice with a latent's codes over it, as an address.

    Args:
        image: the slice.
        brain: its brain mask.
        grid: codes on the token grid; enlarged bilinearly, as the segmenter enlarges its logits.
        strongest: the code that is painted brightest.
        region: outlined in white.
        side: pixels of the picture.
    """
    scan, (top, left, extent) = scan_of(image, brain, side)
    height, width = image.shape
    relative = (grid / strongest if strongest > 0 else np.zeros_like(grid)).astype(np.float32)
    full = np.asarray(Image.fromarray(relative).resize((width, height), Image.Resampling.BILINEAR))
    heat = np.ascontiguousarray(full[top : top + extent, left : left + extent])
    heat = np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BILINEAR))
    if region is not None:
        cropped = np.ascontiguousarray(region[top : top + extent, left : left + extent].astype(np.uint8))
        region = enlarged(cropped, side, smooth=False) > 0
    return data_uri(with_heat(scan, heat, region))
