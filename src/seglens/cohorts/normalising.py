"""From raw intensities to what a network sees: brain, clipping, z-score, padding, resizing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_DARK = 0.05  # share of the 99.5th percentile below which a pixel counts as background
_ZEROS_OF_DARK = 0.95


def brains_of(parts: Sequence[Sequence[NDArray[np.float32]]]) -> list[NDArray[np.bool_]]:
    """Where the brain is; where nothing is stripped, the body.

    A volume whose dark voxels are nearly all exactly zero was stripped: its brain is what is not zero in any sequence.
    Otherwise the background holds noise, and the body is, per slice, the largest piece that is bright enough.

    Args:
        parts: of one volume (one NIfTI, or the 2-D files of a patient): per part its sequences, each [D H W].

    Returns:
        Per part [D H W] bool.
    """
    brains = [np.zeros(part[0].shape, bool) for part in parts]
    for sequence in zip(*parts, strict=True):
        everything = np.concatenate([values.ravel() for values in sequence])
        threshold = None if is_stripped(everything) else 0.5 * otsu_threshold(everything)
        for number, values in enumerate(sequence):
            brains[number] |= values != 0 if threshold is None else body_of(values, threshold)
    return brains


def is_stripped(values: NDArray[np.float32]) -> bool:
    """Whether nearly all dark voxels are exactly zero."""
    magnitude = np.abs(values)
    dark = magnitude <= _DARK * _percentiles(magnitude, (99.5,))[0]
    n_dark = int(np.count_nonzero(dark))
    return n_dark == 0 or int(np.count_nonzero(values == 0)) >= _ZEROS_OF_DARK * n_dark


def body_of(values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Per slice the largest piece above a threshold, its holes filled.

    Half of Otsu's threshold is meant: Otsu parts bright tissue from the rest, and dark tissue must stay inside.

    Args:
        values: [D H W].
        threshold: of intensity.

    Returns:
        [D H W] bool.
    """
    from scipy import ndimage

    body = np.zeros(values.shape, bool)
    for number, plane in enumerate(values > threshold):
        pieces, n = ndimage.label(ndimage.binary_opening(plane, iterations=2))
        if n:
            sizes = np.bincount(pieces.ravel())[1:]
            body[number] = ndimage.binary_fill_holes(pieces == 1 + int(sizes.argmax()))
    return body


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """The threshold that parts a histogram of 256 bins into two classes of least variance (Otsu 1979)."""
    low, high = _percentiles(values, (0.0, 99.5))
    counts, edges = np.histogram(np.clip(values, low, high), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    best = np.flatnonzero(between[:-1] >= np.nanmax(between[:-1]) * (1 - 1e-9))
    return float((centres[best[0]] + centres[best[-1]]) / 2)  # the middle of a gap, where every bin is as good


@dataclass(frozen=True)
class Intensities:
    """What maps a volume's intensities to z-scores: the clip, and mean and spread of the brain after it."""

    low: float
    high: float
    mean: float
    spread: float

    @classmethod
    def of(
        cls,
        parts: Sequence[NDArray[np.float32]],
        brains: Sequence[NDArray[np.bool_]],
        clip_percentiles: tuple[float, float],
    ) -> "Intensities":
        """Of one volume and one sequence.

        Args:
            parts: [D H W] each.
            brains: of each part; not all empty.
            clip_percentiles: low and high, 0..100, of the brain.
        """
        inside = np.concatenate([values[brain] for values, brain in zip(parts, brains, strict=True)])
        low, high = (float(value) for value in np.percentile(inside, clip_percentiles))
        inside = np.clip(inside, low, high)
        return cls(low, high, float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64)))

    def normalise(self, values: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Clip, z-score, 0 outside the brain; all zero where the brain was constant."""
        if self.spread == 0:
            return np.zeros_like(values)
        return np.where(brain, (np.clip(values, self.low, self.high) - self.mean) / self.spread, 0).astype(np.float32)


def resize(
    images: Float[Tensor, "B C H W"], masks: UInt8[Tensor, "B H W"], brains: Bool[Tensor, "B H W"], size: int
) -> tuple[Float[Tensor, "B C s s"], UInt8[Tensor, "B s s"], Bool[Tensor, "B s s"]]:
    """Pad to a square about the centre, then resize: images bilinearly, masks and brains to the nearest.

    Shrinking averages over what falls into a pixel (no aliasing). Images are 0 outside the resized brain.
    """
    images = F.pad(images, _to_square(*images.shape[-2:]))
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    masks = resize_nearest(masks, size)
    brains = resize_nearest(brains.to(torch.uint8), size).bool()
    return images * brains[:, None], masks, brains


def resize_nearest(masks: UInt8[Tensor, "B H W"], size: int) -> UInt8[Tensor, "B s s"]:
    """Pad to a square about the centre, then take the nearest pixel."""
    masks = F.pad(masks, _to_square(*masks.shape[-2:]))
    if masks.shape[-1] == size:
        return masks
    return F.interpolate(masks[:, None], (size, size), mode="nearest-exact")[:, 0].contiguous()


def from_square(logits: Float[Tensor, "B K s s"], height: int, width: int) -> Float[Tensor, "B K H W"]:
    """The inverse of padding and resizing for what a network says of each pixel; bilinear where sizes differ."""
    side = max(height, width)
    if logits.shape[-1] != side:
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False, antialias=True)
    left, _, top, _ = _to_square(height, width)
    return logits[..., top : top + height, left : left + width]


def _to_square(height: int, width: int) -> tuple[int, int, int, int]:
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return left, side - width - left, top, side - height - top


def _percentiles(values: NDArray[np.float32], percentiles: Sequence[float]) -> NDArray[np.float64]:
    """Of at most a million of the values, evenly taken: enough for a threshold, and quick."""
    flat = values.ravel()
    return np.asarray(np.percentile(flat[:: max(1, flat.size // 10**6)], percentiles), np.float64)
