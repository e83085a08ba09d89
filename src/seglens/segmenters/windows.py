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
from seglens.runtime.resources import require_memory
from seglens.shapes import Extent, Images, Logits, TokenGrid, extent_of

Precision = Literal["float16", "float32"]
STEP = 0.5
"""Of a window, to the next one, at most."""
PEAK = 10.0
SIGMA = 1 / 8
"""Of a window's side."""
MAX_WINDOWS = 2**22
"""Of a volume."""


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
def passing(current: WindowPass) -> Iterator[None]:
    """Say which window is being run, to `window_pass`, until the context ends."""
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
    count = _along(n, side, step)
    apart = (n - side) / (count - 1) if count > 1 else 0.0
    return [int(np.round(apart * place)) for place in range(count)]


def _along(n: int, side: int, step: float = STEP) -> int:
    """Number of windows along an axis."""
    return math.ceil((n - side) / (side * step)) + 1


@dataclass(frozen=True)
class Tiling:
    """Rule by which windows are laid over a grid, weighed and filled up: nnU-Net's; others override it."""

    def starts(self, axis: int, n: int, side: int) -> list[int]:
        """First voxels of the windows along an axis of ``n`` voxels, at least ``side``."""
        return list(range(n)) if axis == 0 and side == 1 else window_starts(n, side)

    def count(self, axis: int, n: int, side: int) -> int:
        """Number of these."""
        return n if axis == 0 and side == 1 else _along(n, side)

    def weights(self, patch: Extent, precision: Precision) -> Float[Tensor, "D H W"]:
        """Weight of each voxel of a window, none of them 0."""
        return window_weights(patch, precision)

    def padded(self, volume: Float[Tensor, "C d h w"], patch: Extent) -> Float[Tensor, "C D H W"]:
        """A volume filled up where it is smaller than the patch (`padding_of`)."""
        return functional.pad(volume, margins_of(extent_of(volume), patch))


NNUNET = Tiling()


def n_windows(extent: Extent, patch: Extent, tiling: Tiling = NNUNET) -> int:
    """Number of the windows of a grid (`windows_of`), none of which is made."""
    return math.prod(tiling.count(axis, n, side) for axis, (n, side) in enumerate(zip(extent, patch, strict=True)))


def windows_of(
    case: str, extent: Extent, patch: Extent, spacing_mm: tuple[float, ...], tiling: Tiling = NNUNET
) -> Iterator[Placement]:
    """All windows of a grid that is at least as large as the patch, slices outermost.

    A patch of one slice is laid on every slice.
    """
    axes = [tiling.starts(axis, n, side) for axis, (n, side) in enumerate(zip(extent, patch, strict=True))]
    for z, y, x in product(*axes):
        yield Placement(case, (z, y, x), patch, spacing_mm)


def padding_of(extent: Extent, patch: Extent) -> tuple[Extent, Extent]:
    """Voxels to be added in front of and behind each axis, for a patch to fit; the odd one goes behind."""
    missing = [max(side - n, 0) for n, side in zip(extent, patch, strict=True)]
    z, y, x = (one // 2 for one in missing)
    depth, rows, columns = (one - one // 2 for one in missing)
    return (z, y, x), (depth, rows, columns)


def margins_of(extent: Extent, patch: Extent) -> list[int]:
    """The same as torch pads: the last axis first, in front and behind."""
    front, behind = padding_of(extent, patch)
    return [size for pair in zip(reversed(front), reversed(behind), strict=True) for size in pair]


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


def require_sums(
    case: str,
    n_channels: int,
    n_heads: int,
    extent: Extent,
    patch: Extent,
    *,
    precision: Precision = "float16",
    n_folds: int = 1,
    tiling: Tiling = NNUNET,
) -> None:
    """Refuse a volume whose windows cannot be added up, before anything is made for them.

    Args:
        case: what the volume is called in the message.
        n_channels: of the volume.
        n_heads: logits a voxel.
        extent: of the volume in the network's grid.
        patch: of the network.
        precision: of the sums.
        n_folds: networks; the mean of several is held beside the sums of one.
        tiling: how windows are laid.

    Raises:
        InsufficientResourcesError: the memory does not hold the sums, the padded volume and a window's logits.
        ValueError: more than `MAX_WINDOWS` windows.
    """
    whole = (max(extent[0], patch[0]), max(extent[1], patch[1]), max(extent[2], patch[2]))
    if (count := n_windows(whole, patch, tiling)) > MAX_WINDOWS:
        raise ValueError(
            f"case {case}: {count} windows of {_sizes(patch)} voxels lie in {_sizes(whole)}; legal are at most "
            f"{MAX_WINDOWS}; cut the volume smaller"
        )
    voxels, size = math.prod(whole), 2 if precision == "float16" else 4
    sums = voxels * size * (n_heads * min(n_folds, 2) + 1)
    window = 4 * math.prod(patch) * (2 * n_channels + 4 * n_heads)
    require_memory(
        sums + 4 * n_channels * voxels + window,
        f"case {case}: logits of {n_heads} classes or regions in {_sizes(whole)} voxels (less in float16, of one fold, "
        "and of a volume cut smaller)",
    )


def refuse_infinite(logits: Float[Tensor, "K D H W"], case: str, precision: Precision) -> None:
    """Refuse logits that are not finite, head by head: of 117 there is no room for a copy.

    Raises:
        ValueError: sums beyond float16, or a network that says no numbers.
    """
    if not all(bool(head.isfinite().all()) for head in logits):
        raise ValueError(f"case {case}: the logits are not finite in {precision}; add the windows up in float32")


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
    tiling: Tiling = NNUNET,
    fold: str = "",
    device: torch.device | None = None,
    progress: Progress = silent,
) -> Float[Tensor, "K D H W"]:
    """Logits of a volume: the weighted mean of its windows', each the mean over its mirrors.

    Args:
        run: the network, from ``[1 C *patch]`` to ``[1 K *patch]``.
        volume: in the network's grid, on the CPU; padded where it is smaller than the patch.
        placement: of the whole volume.
        patch: of the network; one slice for a network that sees planes.
        n_heads: K.
        mirror_axes: of space, of 0, 1 and 2.
        precision: in which windows are added up; nnU-Net itself adds float16.
        tiling: how windows are laid and weighed, and volumes padded.
        fold: what the network is called.
        device: of the network; sums stay on the CPU.
        progress: told after each window.

    Raises:
        ValueError: logits that are not finite, such as sums beyond float16.
    """
    front, _ = padding_of(placement.extent, patch)
    padded = tiling.padded(volume, patch)
    _, depth, rows, columns = padded.shape
    kind = getattr(torch, precision)
    sums = torch.zeros(n_heads, depth, rows, columns, dtype=kind)
    total = torch.zeros(depth, rows, columns, dtype=kind)
    weights = tiling.weights(patch, precision)
    places = windows_of(placement.case, (depth, rows, columns), patch, placement.spacing_mm, tiling)
    count = n_windows((depth, rows, columns), patch, tiling)
    z, y, x = (-first for first in front)
    for number, place in enumerate(places):
        images = padded[(slice(None), *place.box)][None].contiguous().to(device or "cpu")
        mean = _over_mirrors(run, images, place.moved((z, y, x)), mirror_axes, fold)
        sums[(slice(None), *place.box)] += mean.cpu().mul_(weights)
        total[place.box] += weights
        progress(number + 1, count)
    sums /= total
    refuse_infinite(sums, placement.case, precision)
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
        with passing(WindowPass(placement, subset, fold)):
            logits = run(torch.flip(images, turned) if turned else images)
        if mean is None:
            mean = logits.clone()
        else:
            mean += torch.flip(logits, turned)
    assert mean is not None
    return (mean.div_(len(subsets)) if len(subsets) > 1 else mean)[0].float()


def _sizes(sizes: Extent) -> str:
    return " x ".join(map(str, sizes))
