"""From raw intensities to what a network sees: clipping, z-score, padding, resizing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Intensities:
    """Map from a volume's intensities to z-scores: the clip, and mean and spread of the brain after it."""

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
