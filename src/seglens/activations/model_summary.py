"""Summary of an opened model: what it expects and says, where it can be opened, and what that costs."""

import math
import time
from dataclasses import dataclass

import torch

from seglens.activations.hooks import activations_at
from seglens.runtime.streams import printable
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.windows import mirrors, n_windows, padding_of
from seglens.shapes import Extent, Images, grid_of

MIN_TOKENS = 256
"""Of a window, at the hookpoint that is proposed."""
MAX_BLOCK_MM = 12.0
TOKEN_BYTES = 4
"""Of a channel, float32."""


@dataclass(frozen=True)
class HookpointCost:
    """A place where a model can be opened.

    Attributes:
        name: of the hookpoint.
        module: dotted path inside the network.
        width: channels of a token.
        grid: tokens of a window, slices first.
        block_mm: what a token stands for, an axis of the network each.
        tokens: of a volume, each place once.
        n_bytes: of these tokens, float32.
    """

    name: str
    module: str
    width: int
    grid: Extent
    block_mm: tuple[float, ...]
    tokens: int
    n_bytes: int


@dataclass(frozen=True)
class ModelSummary:
    """An opened model in figures.

    Attributes:
        model: that was opened.
        volume: slices, rows and columns that the figures are for, in the network's grid.
        windows: of such a volume.
        passes: of the networks for it: windows, mirrors and folds.
        seconds: for it, from one measured pass.
        device: that it was measured on.
        hookpoints: as a forward pass reaches them.
        proposed: name of the hookpoint to begin with.
    """

    model: OpenedModel
    volume: Extent
    windows: int
    passes: int
    seconds: float
    device: str
    hookpoints: tuple[HookpointCost, ...]
    proposed: str

    def text(self) -> str:
        """Lines for people."""
        model = self.model
        order = "turned to RAS+" if model.canonical else "in the file's own order of voxels"
        source = "one window" if model.usual_extent is None else "the training set's median"
        spacing = f"{_listed(model.spacing_mm)} mm" if model.spacing_mm else "the file's"
        facts = model.facts()
        facts["channels"] = f"{', '.join(f'{number} {name}' for number, name in enumerate(model.sequences))}, {order}"
        facts["grid"] = f"{spacing}, windows of {_sizes(model.patch)}"
        facts["regions" if model.regions else "labels"] = ", ".join(
            f"{model.codes[label]} {name}" for label, name in model.labels.items()
        )
        facts["a volume"] = (
            f"{_sizes(self.volume)} voxels ({source}): {self.windows} windows, {self.passes} passes, "
            f"{self.seconds:.1f} s on {self.device}, from one measured pass"
        )
        longest = max(20, *(len(one.module) for one in self.hookpoints))
        lines = [
            *(f"{heading:<14} {fact}" for heading, fact in facts.items()),
            "",
            f"{'hookpoint':<12} {'module':<{longest}} {'width':>5} {'tokens a window':>16} {'mm a token':>16} "
            f"{'tokens a volume':>15} {'MB a volume':>11}",
        ]
        for one in self.hookpoints:
            lines.append(
                f"{one.name:<12} {one.module:<{longest}} {one.width:>5} {_sizes(one.grid):>16} "
                f"{_listed(one.block_mm):>16} "
                f"{one.tokens:>15,} {one.n_bytes / 1e6:>11.1f}{'  proposed' if one.name == self.proposed else ''}"
            )
        return "\n".join(printable(line) for line in lines)


@torch.no_grad()
def summarise_model(model: OpenedModel, volume: Extent | None = None) -> ModelSummary:
    """Summarise an opened model; its first network is run twice on an empty window, once to be timed.

    Args:
        model: on the device where it is to run.
        volume: slices, rows and columns in the network's grid; None: the training set's median, or one window.

    Raises:
        ValueError: a window that the network cannot take.
    """
    segmenter = next(iter(model.folds.values()))
    size = volume or model.usual_extent or model.patch
    patch = model.window(size)
    front, behind = padding_of(size, patch)
    depth, rows, columns = (n + one + other for n, one, other in zip(size, front, behind, strict=True))
    windows = n_windows((depth, rows, columns), patch, model.tiling)
    passes = windows * len(mirrors(model.mirror_axes)) * len(model.folds)
    blank = torch.zeros(1, len(model.sequences), *patch, device=segmenter.device)
    names = list(segmenter.hookpoints)
    grids = activations_at(segmenter, names, blank)
    costs = []
    for name, tokens in zip(names, grids, strict=True):
        grid = grid_of(tokens)
        strides = [side / n for side, n in zip(patch, grid, strict=True)]
        count = math.prod(math.ceil(n / stride) for n, stride in zip(size, strides, strict=True))
        width = tokens.shape[-1]
        own = strides[-segmenter.spatial_dims :]
        block = tuple(stride * mm for stride, mm in zip(own, model.spacing_mm or [1.0] * len(own), strict=True))
        costs.append(
            HookpointCost(name, segmenter.place(name).module, width, grid, block, count, count * width * TOKEN_BYTES)
        )
    del grids
    return ModelSummary(
        model,
        size,
        windows,
        passes,
        _seconds(segmenter, blank) * passes,
        str(segmenter.device),
        tuple(costs),
        _proposed(costs),
    )


def _seconds(segmenter: Segmenter, images: Images) -> float:
    """Time of one pass."""
    started = time.perf_counter()
    logits = segmenter.logits(images)
    logits.sum().item()  # waits for the device
    return time.perf_counter() - started


def _proposed(costs: list[HookpointCost]) -> str:
    """The deepest stage of the encoder with tokens enough and small enough; the finest where none has."""
    encoder = [one for one in costs if not one.name.startswith("decoder")] or costs
    fitting = [one.name for one in encoder if math.prod(one.grid) >= MIN_TOKENS and max(one.block_mm) <= MAX_BLOCK_MM]
    return fitting[-1] if fitting else encoder[0].name


def _sizes(sizes: Extent) -> str:
    return " x ".join(map(str, sizes))


def _listed(sizes: tuple[float, ...]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes)
