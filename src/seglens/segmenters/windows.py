"""Volumes through a network window by window, as nnU-Net v2 does it: places, weights, mirrors, sums.

Isensee et al. (2021). While a window is run, `window_pass` says which one it is, so that a hook knows where it looks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.runtime.progress import Progress, silent
from seglens.shapes import Extent, Images, Logits, TokenGrid

Precision = Literal["float16", "float32"]
STEP = 0.5
"""Of a window, to the next one, at most."""
PEAK = 10.0
SIGMA = 1 / 8
"""Of a window's side."""


@dataclass(frozen=True)
class Placement:
    """Where a sample lies in a volume: a slice, a patch, or all of it.

    Attributes:
        case: id of the volume's case.
        start: first slice, row and column, voxels of the volume's grid; negative where it begins in the padding.
        extent: slices, rows and columns.
        spacing_mm: of the grid.
    """

    case: str
    start: Extent
    extent: Extent
    spacing_mm: tuple[float, ...]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """As an index of an array of the grid."""
        z, y, x = (slice(first, first + n) for first, n in zip(self.start, self.extent, strict=True))
        return z, y, x

    def moved(self, by: Extent) -> "Placement":
        """The same sample in a grid whose first voxel lies elsewhere."""
        z, y, x = (first + step for first, step in zip(self.start, by, strict=True))
        return Placement(self.case, (z, y, x), self.extent, self.spacing_mm)


@dataclass(frozen=True)
class WindowPass:
    """One run of a network on one window.

    Attributes:
        placement: of the window in the network's grid.
        mirrored: axes of space that are turned round, of 0 (slices), 1 (rows) and 2 (columns).
        fold: whose network it is.
    """

    placement: Placement
    mirrored: tuple[int, ...] = ()
    fold: str = ""

    def upright(self, tokens: TokenGrid) -> TokenGrid:
        """Turn a token grid of this pass the way the volume lies; the same call turns it back."""
        return torch.flip(tokens, [axis + 1 for axis in self.mirrored]) if self.mirrored else tokens


_CURRENT: ContextVar[WindowPass] = ContextVar("window_pass")


def window_pass() -> WindowPass:
    """The window, mirror and fold that a network is being run on.

    Raises:
        ValueError: no volume is being run.
    """
    found = _CURRENT.get(None)
    if found is None:
        raise ValueError("no window is being run; ask inside a hook or a change while a volume is predicted")
    return found


@contextmanager
def _passing(current: WindowPass) -> Iterator[None]:
    token = _CURRENT.set(current)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def window_starts(n: int, side: int, step: float = STEP) -> list[int]:
    """First voxels of the windows along an axis: evenly spread from edge to edge, rounded.

    Args:
        n: voxels, at least ``side``.
        side: of a window.
        step: share of the side, above 0 and at most 1.
    """
    count = math.ceil((n - side) / (side * step)) + 1
    apart = (n - side) / (count - 1) if count > 1 else 0.0
    return [int(np.round(apart * place)) for place in range(count)]


def windows_of(case: str, extent: Extent, patch: Extent, spacing_mm: tuple[float, ...]) -> list[Placement]:
    """All windows of a grid that is at least as large as the patch, slices outermost.

    A patch of one slice is laid on every slice.
    """
    axes = [
        list(range(n)) if axis == 0 and side == 1 else window_starts(n, side)
        for axis, (n, side) in enumerate(zip(extent, patch, strict=True))
    ]
    return [Placement(case, (z, y, x), patch, spacing_mm) for z, y, x in product(*axes)]


def padding_of(extent: Extent, patch: Extent) -> tuple[Extent, Extent]:
    """Voxels to be added in front of and behind each axis, for a patch to fit; the odd one goes behind."""
    missing = [max(side - n, 0) for n, side in zip(extent, patch, strict=True)]
    z, y, x = (one // 2 for one in missing)
    depth, rows, columns = (one - one // 2 for one in missing)
    return (z, y, x), (depth, rows, columns)


@lru_cache(maxsize=8)
def window_weights(patch: Extent, precision: Precision) -> Float[Tensor, "D H W"]:
    """Weight of each voxel of a window: a Gaussian about its middle, the largest 10, none of them 0."""
    from scipy import ndimage

    sides = patch[1:] if patch[0] == 1 else patch
    impulse = np.zeros(sides)
    impulse[tuple(side // 2 for side in sides)] = 1
    weights = torch.from_numpy(ndimage.gaussian_filter(impulse, [side * SIGMA for side in sides], mode="constant"))
    weights = (weights / (weights.max() / PEAK)).to(getattr(torch, precision)).reshape(patch)
    return torch.where(weights == 0, weights[weights > 0].min(), weights)


def mirrors(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of axes, the empty one first."""
    return [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]


@torch.no_grad()
def windowed_logits(
    run: Callable[[Images], Logits],
    volume: Float[Tensor, "C D H W"],
    placement: Placement,
    patch: Extent,
    *,
    n_heads: int,
    mirror_axes: Sequence[int] = (),
    precision: Precision = "float16",
    fold: str = "",
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Float[Tensor, "K D H W"]:
    """Logits of a volume: the weighted mean of its windows', each the mean over its mirrors.

    Args:
        run: the network, from ``[1 C *patch]`` to ``[1 K *patch]``.
        volume: in the network's grid, on the CPU; padded with 0 where it is smaller than the patch.
        placement: of the whole volume.
        patch: of the network; one slice for a network that sees planes.
        n_heads: K.
        mirror_axes: of space, of 0, 1 and 2.
        precision: in which windows are added up; nnU-Net itself adds float16.
        fold: what the network is called.
        device: of the network; sums stay on the CPU.
        progress: told after each window.

    Raises:
        ValueError: logits that are not finite, such as sums beyond float16.
    """
    front, behind = padding_of(placement.extent, patch)
    margins = [size for pair in zip(reversed(front), reversed(behind), strict=True) for size in pair]
    padded = functional.pad(volume, margins)
    _, depth, rows, columns = padded.shape
    kind = getattr(torch, precision)
    sums = torch.zeros(n_heads, depth, rows, columns, dtype=kind)
    total = torch.zeros(depth, rows, columns, dtype=kind)
    weights = window_weights(patch, precision)
    places = windows_of(placement.case, (depth, rows, columns), patch, placement.spacing_mm)
    z, y, x = (-first for first in front)
    for number, place in enumerate(places):
        images = padded[(slice(None), *place.box)][None].contiguous().to(device or "cpu")
        mean = _over_mirrors(run, images, place.moved((z, y, x)), mirror_axes, fold)
        sums[(slice(None), *place.box)] += mean.cpu().mul_(weights)
        total[place.box] += weights
        progress(number + 1, len(places))
    sums /= total
    if not all(bool(head.isfinite().all()) for head in sums):  # head by head: of 117 there is no room for a copy
        raise ValueError(
            f"case {placement.case}: the logits are not finite in {precision}; add the windows up in float32"
        )
    own = (slice(first, first + n) for first, n in zip(front, placement.extent, strict=True))
    return sums[(slice(None), *own)]


def _over_mirrors(
    run: Callable[[Images], Logits], images: Images, placement: Placement, axes: Sequence[int], fold: str
) -> Float[Tensor, "K D H W"]:
    """Mean of a window's logits over its mirrors."""
    mean: Tensor | None = None
    subsets = mirrors(axes)
    for subset in subsets:
        turned = [axis + 2 for axis in subset]
        with _passing(WindowPass(placement, subset, fold)):
            logits = run(torch.flip(images, turned) if turned else images)
        if mean is None:
            mean = logits.clone()
        else:
            mean += torch.flip(logits, turned)
    assert mean is not None
    return (mean / len(subsets) if len(subsets) > 1 else mean)[0].float()
