"""Reading and changing activations: the only forward hooks in the project, each inside a ``with``.

transformers collects SegFormer's hidden states by hooks of its own, installed at the first call, and the decoder reads
those. A hook registered after them would change what the next stage sees but not what the decoder gets. So edits are
registered in front of every other hook: whoever consumes the module's output gets the edited one. Captures stand behind
all edits, whatever the order of the ``with`` blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from seglens.segmenters.segmenter import LAYOUTS, Hookpoint, Segmenter
from seglens.shapes import Images, TokenGrid, plane_of

Change = Callable[[TokenGrid], TokenGrid]
"""From an activation to the one in its place. It returns its argument to change nothing, and never writes into it."""


class Capture:
    """Holds the activation of the latest forward pass."""

    def __init__(self, hookpoint: str):
        self.hookpoint = hookpoint
        self._tokens: Tensor | None = None

    @property
    def tokens(self) -> TokenGrid:
        """The activation ``[B d h w d_in]``, a copy, with its autograd graph where one is recorded.

        Raises:
            ValueError: no forward pass has gone through the hookpoint yet.
        """
        if self._tokens is None:
            raise ValueError(f"nothing captured at {self.hookpoint!r} yet; run segmenter.logits inside the with block")
        return self._tokens


@contextmanager
def capture(segmenter: Segmenter, hookpoint: str) -> Iterator[Capture]:
    """Keep the activation at ``hookpoint`` of each forward pass; edits of the same hookpoint are seen.

    Args:
        segmenter: the network to look into.
        hookpoint: one of its hookpoints.

    Yields:
        An object whose ``tokens`` is the latest pass's activation ``[B d h w d_in]``.

    Raises:
        ValueError: unknown hookpoint, or an output that is not in the declared layout.

    Example:
        >>> with capture(segmenter, "stage2") as seen:
        ...     masks = segmenter.predict(images)
        >>> seen.tokens.shape
        torch.Size([4, 1, 16, 16, 64])
    """
    place = segmenter.place(hookpoint)
    captured = Capture(hookpoint)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # a copy: a later in-place activation function would otherwise change what was captured
        tokens = _to_tokens(_item(output, hookpoint, place), hookpoint, place)
        captured._tokens = tokens.clone(memory_format=torch.contiguous_format)

    handle = segmenter.module_at(hookpoint).register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def edit(segmenter: Segmenter, hookpoint: str, change: Change) -> Iterator[None]:
    """Put ``change(activation)`` in the place of the activation at ``hookpoint``, for every consumer of it.

    Several edits of one hookpoint apply in the order in which they were entered. Where ``change`` returns its argument
    itself, the network's own tensor goes on untouched, bit for bit.

    Args:
        segmenter: the network to change for the length of the block.
        hookpoint: one of its hookpoints.
        change: from ``[B d h w d_in]`` to the same shape; differentiable where gradients are wanted.

    Raises:
        ValueError: unknown hookpoint, an output not in the declared layout, or a change of shape.
    """
    place = segmenter.place(hookpoint)
    module = segmenter.module_at(hookpoint)
    edits = next((hook for hook in module._forward_hooks.values() if isinstance(hook, _Edits)), None)
    if edits is None:
        edits = _Edits()
        edits.handle = module.register_forward_hook(edits, prepend=True)
    entry = (hookpoint, place, change)
    edits.entries.append(entry)
    try:
        yield
    finally:
        edits.entries.remove(entry)
        if not edits.entries:
            edits.handle.remove()


def activations(segmenter: Segmenter, hookpoint: str, images: Images) -> TokenGrid:
    """The activation at ``hookpoint`` ``[B d h w d_in]``; the pass stops there, nothing behind it is computed.

    Raises:
        ValueError: an unknown hookpoint, one whose output is no activation, or one that a forward pass does not reach.
    """
    return activations_at(segmenter, [hookpoint], images)[0]


def activations_at(segmenter: Segmenter, hookpoints: Sequence[str], images: Images) -> list[TokenGrid]:
    """The activation at each of some hookpoints, from one pass, which stops at the last that it reaches.

    Args:
        segmenter: the network to look into.
        hookpoints: different ones of its own.
        images: on its device.

    Raises:
        ValueError: as `activations`.
    """
    found: dict[str, TokenGrid] = {}

    def keeping(hookpoint: str, place: Hookpoint) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tokens = _to_tokens(_item(output, hookpoint, place), hookpoint, place)
            if len({*found, hookpoint}) < len(hookpoints):
                found.setdefault(hookpoint, tokens.clone())  # the pass goes on, and may change it in place
            else:
                found[hookpoint] = tokens
                raise _ReachedError

        return keep

    with ExitStack() as handles:
        for hookpoint in hookpoints:
            hook = keeping(hookpoint, segmenter.place(hookpoint))
            handles.callback(segmenter.module_at(hookpoint).register_forward_hook(hook).remove)
        with suppress(_ReachedError):
            segmenter.logits(images)
    for hookpoint in hookpoints:
        if hookpoint not in found:
            raise ValueError(
                f"hookpoint {hookpoint!r}: its module {segmenter.place(hookpoint).module!r} did not run in a forward "
                "pass; choose another"
            )
    return [found[hookpoint] for hookpoint in hookpoints]


class _ReachedError(Exception):
    """Ends a forward pass behind the last hookpoint."""


@dataclass
class _Edits:
    """The one edit hook of a module: it applies its entries in order."""

    entries: list[tuple[str, Hookpoint, Change]] = field(default_factory=list)
    handle: Any = None

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        for hookpoint, place, change in self.entries:
            output = _edited(output, hookpoint, place, change)
        return output


def _edited(output: Any, hookpoint: str, place: Hookpoint, change: Change) -> Any:
    original = _item(output, hookpoint, place)
    tokens = _to_tokens(original, hookpoint, place)
    edited = change(tokens)
    if edited is tokens:
        return output
    if edited.shape != tokens.shape:
        raise ValueError(
            f"the edit at {hookpoint!r} made {tuple(edited.shape)} of {tuple(tokens.shape)}; it must keep the shape"
        )
    written = _from_tokens(edited.to(original), original, place)
    if place.item is None:
        return written
    items = list(output)
    items[place.item] = written
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*items)
    return tuple(items) if isinstance(output, tuple) else items


def _item(output: Any, hookpoint: str, place: Hookpoint) -> Tensor:
    if place.item is not None:
        if not isinstance(output, tuple | list) or not -len(output) <= place.item < len(output):
            raise ValueError(
                f"hookpoint {hookpoint!r} declares item {place.item}, but {place.module!r} returns {_kind(output)}"
            )
        output = output[place.item]
    if not isinstance(output, Tensor):
        raise ValueError(
            f"hookpoint {hookpoint!r}: {place.module!r} returns {_kind(output)}; "
            "declare which element is the activation with Hookpoint(item=...), or choose a module that returns a tensor"
        )
    return output


def _kind(output: Any) -> str:
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}: {', '.join(type(part).__name__ for part in output)}"
    return f"a {type(output).__name__}"


def _to_tokens(output: Tensor, hookpoint: str, place: Hookpoint) -> Tensor:
    axes = len(place.layout)
    if output.ndim != axes:
        raise ValueError(
            f"hookpoint {hookpoint!r}: layout {place.layout} has {axes} axes, the output of {place.module!r} is "
            f"{tuple(output.shape)}; declare its layout: {', '.join(LAYOUTS)}"
        )
    if place.layout == "BCHW":
        return rearrange(output, "B c h w -> B 1 h w c")
    if place.layout == "BCDHW":
        return rearrange(output, "B c d h w -> B d h w c")
    # a new view, so that an edit that returns its argument can be told from one that returns the output
    if place.layout == "BHWC":
        return output.unsqueeze(1)
    if place.layout == "BDHWC":
        return output.view_as(output)
    side = isqrt(output.shape[1])
    depth, rows, columns = place.grid or (1, side, side)
    if depth * rows * columns != output.shape[1]:
        grid = "the declared grid" if place.grid else "a square grid (a class token among them?)"
        raise ValueError(
            f"hookpoint {hookpoint!r}: {output.shape[1]} positions are not {grid}; choose a module whose output is a "
            "grid, or declare it with Hookpoint(grid=(slices, rows, columns))"
        )
    return rearrange(output, "B (d h w) c -> B d h w c", d=depth, h=rows)


def _from_tokens(tokens: Tensor, original: Tensor, place: Hookpoint) -> Tensor:
    if place.layout == "BNC":
        return rearrange(tokens, "B d h w c -> B (d h w) c").contiguous()
    if place.layout == "BHWC":
        return plane_of(tokens, 1).contiguous()
    if place.layout == "BDHWC":
        return tokens.contiguous()
    channels_first = rearrange(tokens, "B d h w c -> B c d h w")
    planes = place.layout == "BCHW"
    last = torch.channels_last if planes else torch.channels_last_3d
    channels_last = original.is_contiguous(memory_format=last) and not original.is_contiguous()
    return (plane_of(channels_first) if planes else channels_first).contiguous(
        memory_format=last if channels_last else torch.contiguous_format
    )
