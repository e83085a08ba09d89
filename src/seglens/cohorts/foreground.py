"""Foreground rules: which pixels of a volume are normalised and shown to a network; the others become 0."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from seglens.runtime.suggestions import did_you_mean

Parts = Sequence[Sequence[NDArray[np.float32]]]
"""Of one volume (one NIfTI, or the 2-D files of a patient): per part its sequences, each [D H W]."""
Foreground = list[NDArray[np.bool_]]
"""Per part [D H W]."""

AUTO = "auto"
"""Stands for `brain` where every volume of a cohort is a stripped brain, and for `none` anywhere else."""
_DARK = 0.05  # share of the 99.5th percentile below which a pixel counts as background
_ZEROS_OF_DARK = 0.95
_MIN_BACKGROUND = 0.1  # share of a stripped volume that is background
_MIN_LARGEST = 0.9  # share of a stripped brain that its slices' largest pieces hold
_MAX_ENCLOSED = 0.02  # zeros inside of a stripped brain, as a share of the brain


def brain_foreground(parts: Parts) -> Foreground:
    """Find the brain; where nothing is stripped, the body.

    A volume whose dark voxels are nearly all exactly zero was stripped: its brain is what is not zero in any sequence.
    Otherwise the background holds noise, and the body is, per slice, the largest piece that is bright enough. That cuts
    off smaller pieces and dark organs at the body's edge.
    """
    foreground = [np.zeros(part[0].shape, bool) for part in parts]
    for sequence in zip(*parts, strict=True):
        everything = np.concatenate([values.ravel() for values in sequence])
        # halfway from the darkest: what is added to all voxels alike, as in Hounsfield units, changes nothing
        threshold = None if is_stripped(everything) else 0.5 * (otsu_threshold(everything) + float(everything.min()))
        for number, values in enumerate(sequence):
            foreground[number] |= values != 0 if threshold is None else body_of(values, threshold)
    return foreground


def nonzero_foreground(parts: Parts) -> Foreground:
    """Take the voxels that are not zero in at least one sequence."""
    return [np.logical_or.reduce([values != 0 for values in part]) for part in parts]


def whole_foreground(parts: Parts) -> Foreground:
    """Take every voxel."""
    return [np.ones(part[0].shape, bool) for part in parts]


RULES: Mapping[str, Callable[[Parts], Foreground]] = MappingProxyType(
    {"brain": brain_foreground, "nonzero": nonzero_foreground, "none": whole_foreground}
)
"""By name, as settings and saved models give them."""


def check_rule(name: str) -> None:
    """Refuse a name that is neither `AUTO` nor in `RULES`.

    Raises:
        ValueError: with the legal names.
    """
    if name != AUTO and name not in RULES:
        raise ValueError(f"no foreground rule {name!r}; {did_you_mean(name, [AUTO, *RULES])}legal are {AUTO}, "
                         f"{', '.join(RULES)}")  # fmt: skip


def is_stripped_brain(parts: Parts) -> bool:
    """Tell whether a volume shows a stripped brain: one piece a slice, and exact zeros around it, not inside.

    In every sequence nearly all dark voxels are exactly zero; at least a tenth of the volume is zero in all sequences;
    the largest pieces of the slices hold nine tenths of the rest; and zeros that are shut in by it are few. So neither
    a photograph or X-ray with a black frame and black organs passes, nor a crop that is filled to its edge.
    """
    for sequence in zip(*parts, strict=True):
        if not is_stripped(np.concatenate([values.ravel() for values in sequence])):
            return False
    foreground = nonzero_foreground(parts)
    n_voxels, n_foreground = (sum(int(value) for value in counts) for counts in (
        (mask.size for mask in foreground), (np.count_nonzero(mask) for mask in foreground)
    ))  # fmt: skip
    if not n_foreground or n_voxels - n_foreground < _MIN_BACKGROUND * n_voxels:
        return False
    largest = sum(_largest_pieces(mask) for mask in foreground)
    enclosed = sum(_enclosed(mask) for mask in foreground)
    return largest >= _MIN_LARGEST * n_foreground and enclosed <= _MAX_ENCLOSED * n_foreground


def is_stripped(values: NDArray[np.float32]) -> bool:
    """Tell whether nearly all dark voxels are exactly zero."""
    magnitude = np.abs(values)
    dark = magnitude <= _DARK * _percentiles(magnitude, (99.5,))[0]
    n_dark = int(np.count_nonzero(dark))
    return n_dark == 0 or int(np.count_nonzero(values == 0)) >= _ZEROS_OF_DARK * n_dark


def body_of(values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Per slice the largest piece above a threshold, its holes filled.

    Halfway from the darkest to Otsu's threshold is meant: that parts bright tissue from the rest, and dark tissue must
    stay inside.

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


def _largest_pieces(mask: NDArray[np.bool_]) -> int:
    """Voxels of the largest piece of each slice, added up."""
    from scipy import ndimage

    total = 0
    for plane in mask:
        pieces, n = ndimage.label(plane)
        total += int(np.bincount(pieces.ravel())[1:].max()) if n else 0
    return total


def _enclosed(mask: NDArray[np.bool_]) -> int:
    """Voxels outside of the mask from which no way within the slice leads to its edge."""
    from scipy import ndimage

    return sum(int(np.count_nonzero(ndimage.binary_fill_holes(plane) & ~plane)) for plane in mask)


def _percentiles(values: NDArray[np.float32], percentiles: Sequence[float]) -> NDArray[np.float64]:
    """Of at most a million of the values, evenly taken: enough for a threshold, and quick."""
    flat = values.ravel()
    return np.asarray(np.percentile(flat[:: max(1, flat.size // 10**6)], percentiles), np.float64)
