"""Statistics of images as a network is shown them: they see the scanner, not the failure."""

import numpy as np
import torch
from jaxtyping import Float

from seglens.audit.volume_samples import VolumeSamples

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_PIXELS = 200_000
"""Of a volume, evenly drawn, for quantiles and entropy."""
BINS = 32
"""Of the histogram, over -4 to 4 standard deviations."""


def image_statistics(samples: VolumeSamples, sequences: tuple[str, ...]) -> dict[str, float]:
    """Statistics of a volume's samples, over the foreground.

    Of each sequence: five quantiles and the entropy (bits) of its normalised intensities; ``noise``, the robust spread
    of the second difference along rows and columns, which edges hardly move; ``edges``, the root mean square first
    difference; and ``blur``, the share of the first difference's power that the second keeps (low where images are
    smooth). Beside them the share of the samples that is foreground, and the logarithm of the spacing in mm.

    Args:
        samples: of one volume.
        sequences: names of the channels.

    Returns:
        Name to value; NaN where the spacing is unknown.
    """
    found = {"image.foreground_share": float(samples.inside.float().mean())}
    spacing = samples.spacing_mm or (float("nan"),) * 3
    for axis, step in zip(("slice", "row", "column"), spacing, strict=True):
        found[f"image.spacing_{axis}_log_mm"] = float(np.log(step))
    for channel, sequence in enumerate(sequences):
        values = samples.stack[:, channel]
        own = values[samples.inside].numpy()
        own = own[:: max(1, len(own) // MAX_PIXELS)]
        for share, value in zip(QUANTILES, np.quantile(own, QUANTILES), strict=True):
            found[f"image.{sequence}.q{100 * share:02.0f}"] = float(value)
        counts, _ = np.histogram(np.clip(own, -4, 4), BINS, (-4, 4))
        shares = counts[counts > 0] / counts.sum()
        found[f"image.{sequence}.entropy"] = float(-(shares * np.log2(shares)).sum())
        first, second = _differences(values, samples.inside)
        spread = float(np.median(np.abs(second - np.median(second)))) if len(second) else float("nan")
        power = float((first**2).mean()) if len(first) else float("nan")
        found[f"image.{sequence}.noise"] = spread
        found[f"image.{sequence}.edges"] = float(np.sqrt(power))
        found[f"image.{sequence}.blur"] = float((second**2).mean()) / power if power > 0 else float("nan")
    return found


def _differences(
    values: Float[torch.Tensor, "n D H W"], inside: torch.Tensor
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """First and second differences along rows and columns where all their pixels are foreground."""
    first, second = [], []
    for axis in (-1, -2):
        length = values.shape[axis]
        if length < 3:
            continue
        step = values.diff(dim=axis)
        both = inside.narrow(axis, 1, length - 1) & inside.narrow(axis, 0, length - 1)
        all_three = both.narrow(axis, 1, length - 2) & both.narrow(axis, 0, length - 2)
        first.append(_thinned(step[both]))
        second.append(_thinned(step.diff(dim=axis)[all_three]))
    return np.concatenate(first or [np.zeros(0)]), np.concatenate(second or [np.zeros(0)])


def _thinned(values: torch.Tensor) -> Float[np.ndarray, " n"]:
    return values[:: max(1, len(values) // MAX_PIXELS)].double().numpy()
