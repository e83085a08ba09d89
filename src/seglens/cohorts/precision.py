"""Numbers of any kind as float32, in which all goes on, and what that changes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LOSS = 1e-4
"""Of an image's range, by which float32 may move a value: a scanner's own step, of 12 bits, is 2.4e-4."""
MIN_APART = 0.9
"""Of a sample's values that differ, the share that must still do as float32."""
_MANY = 8
_MAX_SAMPLE = 1024  # of so many with a step of `MAX_LOSS` of their range a tenth fall together
_HALF_STEP = 2.0**-24
"""By which float32 moves a number at most, as a share of it."""


@dataclass(frozen=True, eq=False)
class Converted:
    """Numbers as float32.

    Attributes:
        data: of the same shape; what is not finite is 0.
        n_nonfinite: how many are NaN or infinite.
        n_overflowed: how many are finite, but not in float32.
        moved: the largest change of any other.
        span: their largest minus their smallest, before.
        largest: of their magnitudes.
        whole: they were stored as integers, which may not move at all.
        apart: of different values of about one size (one power of two), the share that still differ; of the worst size.
    """

    data: NDArray[np.float32]
    n_nonfinite: int
    n_overflowed: int
    moved: float
    span: float
    largest: float
    whole: bool
    apart: float

    def fault(self, *, exact: bool = False) -> tuple[str, str] | None:
        """Say what was found, and what to do, where numbers were lost; None where they are what they were.

        Args:
            exact: no number may move at all, as in a mask; otherwise by `MAX_LOSS` of the range, and nine of ten that
                differ must still do.
        """
        if self.n_overflowed:
            what = f"{self.n_overflowed} of {self.data.size} values are beyond float32, up to {self.largest:.3g}"
            return what, "scale them down and save the file again"
        if self.moved > (0 if exact or self.whole else MAX_LOSS * self.span) or self.apart < MIN_APART:
            what = (
                f"float32 moves its values by up to {self.moved:.3g}, of a range of {self.span:.3g} that ends at "
                f"{self.largest:.6g}, and {self.apart:.0%} of those that differ still do"
            )
            return what, "take off the offset (or map labels to small numbers) and save the file again"
        return None


def to_float32(numbers: NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> Converted:
    """Convert numbers, scaled in float64.

    Args:
        numbers: integers or floats.
        slope: factor.
        intercept: added after it.
    """
    scaled = (slope, intercept) != (1.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        # scaling keeps order, so the extremes tell of all: NaN comes out of both
        extremes = np.array([numbers.min(), numbers.max()]).astype(np.float64) * slope + intercept
        exact = numbers.astype(np.float64) * slope + intercept if scaled else None
        data = (numbers if exact is None else exact).astype(np.float32)
        n_nonfinite = n_overflowed = 0
        largest = float(np.abs(extremes).max())
        if not np.isfinite(extremes.astype(np.float32)).all():
            exact = numbers.astype(np.float64) if exact is None else exact
            finite, known = np.isfinite(data), np.isfinite(exact)
            n_nonfinite, n_overflowed = (int(np.count_nonzero(bad)) for bad in (~known, known & ~finite))
            largest = float(np.abs(exact[known]).max()) if known.any() else 0.0
            data[~finite] = 0
            extremes = np.array([exact[finite].min(), exact[finite].max()]) if finite.any() else np.zeros(2)
        span, moved = float(abs(extremes[1] - extremes[0])), 0.0
        top, whole, apart = float(np.abs(extremes).max()), not scaled and numbers.dtype.kind in "iu", 1.0
        if top * _HALF_STEP > MAX_LOSS * span or top > 2**24:  # from there on whole numbers may move
            exact = numbers.astype(np.float64) if exact is None else exact
            moved = float(np.abs(np.where(data == 0, 0, exact - data)).max())
        if whole and top > 2**53:  # where float64 moves them too, and cannot tell by how much
            moved = max(moved, 1.0)
        if scaled or numbers.dtype == np.float64 or moved:
            exact = numbers if exact is None else exact
            every = -(-data.size // _MAX_SAMPLE)
            apart = _share_apart(exact.ravel()[::every], data.ravel()[::every])
    return Converted(data, n_nonfinite, n_overflowed, moved, span, largest, whole, apart)


def _share_apart(before: NDArray[Any], after: NDArray[np.float32]) -> float:
    """Of values that differ, the share that still do; the smallest over the powers of two with many of them."""
    values = np.unique(before[(after != 0) & np.isfinite(before)])
    _, sizes = np.frexp(values)
    _, starts, n = np.unique(sizes * np.sign(values), return_index=True, return_counts=True)
    return min(
        (len(np.unique(values[start : start + count].astype(np.float32))) / count
         for start, count in zip(starts, n, strict=True) if count >= _MANY),
        default=1.0,
    )  # fmt: skip
