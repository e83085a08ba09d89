"""The part of a network that a hookpoint does not reach, computed once and replayed for every edit.

The forward methods of the hookpoint, of the outermost modules that are finished when it is, and of later ones that get
nothing of it (a decoder's projection of a finer stage) are replaced for the length of one pass: while recording by a
wrapper that keeps the output, while replaying by a function that gives it back. So nothing of the network has to be
known, hooks on those modules still run, and the rest computes the very same bits.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seglens.activations.hooks import Change, edit
from seglens.segmenters.segmenter import Segmenter, resized
from seglens.shapes import Images, Logits, TokenGrid, extent_of, with_depth

Forward = Callable[..., Any]


@dataclass
class _Call:
    module: str
    parent: "_Call | None"
    end: int = -1
    inputs: Any = None
    output: Any = None
    versions: list[int] = field(default_factory=list)
    reached: bool = (
        False  # it, or a call in it, gets or gives something else when the hookpoint's activation is another
    )
    kept: bool = False  # replayed, and in no replayed call

    @property
    def hidden(self) -> bool:
        """Inside a replayed call: it does not happen in a replay."""
        return self.parent is not None and (self.parent.kept or self.parent.hidden)


class Replay:
    """One segmenter, one hookpoint, one batch at a time.

    `record` runs the whole network on a batch; `logits` then runs only what depends on the hookpoint, with a change of
    its activation, as often as wanted. What that is, is found out on the first slice. Where a replay would not be exact
    (a later module writes into a recorded output, or the replayed logits of that slice differ in any bit from those of
    a whole pass with the same change) `logits` runs the whole network: slower, same numbers.
    """

    def __init__(self, segmenter: Segmenter, hookpoint: str):
        segmenter.place(hookpoint)
        self.segmenter = segmenter
        self.hookpoint = hookpoint
        self.exact = True
        self._plan: Mapping[str, list[str]] | None = None
        self._modules = dict(segmenter.network.named_modules())
        self._kept: dict[str, list[Any]] = {}
        self._images: Tensor | None = None

    def again(self) -> "Replay":
        """Another of the same place, for another batch: what was found out of the network is not found out again."""
        other = Replay(self.segmenter, self.hookpoint)
        other._plan, other.exact = self._plan, self.exact
        return other

    @property
    def replayed_modules(self) -> list[str]:
        """Names of the modules that are not computed again; empty before the first batch."""
        return sorted(self._plan) if self._plan and self.exact else []

    def record(self, images: Images) -> Logits:
        """Run the whole network, keep what the prefix gave, return the unedited logits."""
        return record_together([self], images)

    def logits(self, change: Change | None = None) -> Logits:
        """Logits of the recorded batch with ``change`` at the hookpoint; gradients flow where they are enabled.

        Raises:
            ValueError: no batch was recorded.
        """
        if self._images is None:
            raise ValueError("nothing recorded; call record(images) first")
        with self._replaced(self._player if self.exact else None):
            if change is None:
                return self.segmenter.logits(self._images)
            with edit(self.segmenter, self.hookpoint, change):
                return self.segmenter.logits(self._images)

    def _find_plan(self, images: Images) -> None:
        """Compare two passes that differ at the hookpoint: what may be replayed, and whether that is exact."""
        calls, _ = self._calls(images)
        target = self.segmenter.place(self.hookpoint).module
        ends = [call.end for call in calls if call.module == target]
        if not ends:
            raise ValueError(f"hookpoint {self.hookpoint!r}: its module {target!r} does not run; choose another")
        with edit(self.segmenter, self.hookpoint, _shaken):
            others, shaken = self._calls(images)
        alike = [call.module for call in calls] == [other.module for other in others]
        for number, call in enumerate(calls):
            other = others[number] if alike else None
            call.reached = other is None or not _equal((call.inputs, call.output), (other.inputs, other.output))
        for call in reversed(calls):  # a parent starts before its children
            if call.parent is not None and (call.reached or call.module == target):
                call.parent.reached = True
        for call in calls:
            call.kept = not call.hidden and (call.end <= ends[0] or not call.reached)
        plan: dict[str, list[str]] = defaultdict(list)
        for call in calls:
            plan[call.module].append("hidden" if call.hidden else "replay" if call.kept else "run")
        self._plan = {name: outcomes for name, outcomes in plan.items() if "replay" in outcomes}
        self._images, self._kept = images, defaultdict(list)
        for call in calls:
            if call.kept:
                self._kept[call.module].append(call.output)
                self.exact &= call.versions == [tensor._version for tensor in _tensors(call.output)]
        self.exact = self.exact and torch.equal(self.logits(_shaken), shaken)

    def _calls(self, images: Images) -> tuple[list[_Call], Logits]:
        """Every module call of a pass, in the order in which they start, and what comes out."""
        calls: list[_Call] = []
        stack: list[_Call] = []
        clock = iter(range(2**62))

        def traced(name: str, forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
            call = _Call(name, stack[-1] if stack else None, inputs=(args, kwargs))
            calls.append(call)
            stack.append(call)
            call.output = forward(*args, **kwargs)
            stack.pop()
            call.end = next(clock)
            call.versions = [tensor._version for tensor in _tensors(call.output)]
            return call.output

        tracer = partial(partial, traced)  # no function is made a module: where types are checked that takes long
        with _replaced_forwards({name: (self._modules[name], tracer) for name in self._modules}):
            return calls, self.segmenter.logits(images)

    def _replaced(self, maker: Callable[[str, Forward], Forward] | None) -> Any:
        names = self._plan if self._plan and maker else {}
        return _replaced_forwards({name: (self._modules[name], maker) for name in names if maker})

    def _recorder(self, name: str, forward: Forward) -> Forward:
        return partial(self._recorded, name, iter(self._outcomes(name)), forward)

    def _recorded(self, name: str, outcomes: Iterator[str], forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if next(outcomes, "run") == "replay":
            self._kept[name].append(output)
        return output

    def _player(self, name: str, forward: Forward) -> Forward:
        outcomes = iter([outcome for outcome in self._outcomes(name) if outcome != "hidden"])
        return partial(_played, outcomes, iter(self._kept[name]), forward)

    def _outcomes(self, name: str) -> list[str]:
        return self._plan[name] if self._plan else []


def _played(outcomes: Iterator[str], outputs: Iterator[Any], forward: Forward, /, *args: Any, **kwargs: Any) -> Any:
    return next(outputs) if next(outcomes, "run") == "replay" else forward(*args, **kwargs)


@torch.no_grad()
def record_together(replays: Sequence[Replay], images: Images) -> Logits:
    """``Replay.record`` for several hookpoints of one segmenter (at least one), in one pass."""
    for replay in replays:
        if replay._plan is None:
            replay._find_plan(images[:1])
        replay._images = images
        replay._kept = defaultdict(list)
    with ExitStack() as stack:
        for replay in replays:
            stack.enter_context(replay._replaced(replay._recorder if replay.exact else None))
        return replays[0].segmenter.logits(images)


@torch.no_grad()
def last_layer(segmenter: Segmenter, images: Images) -> tuple[str, str]:
    """The layer that gives the network's logits, and the module whose output it takes, by their dotted paths.

    Args:
        segmenter: any.
        images: one slice is enough.

    Raises:
        ValueError: the last module with weights of its own does not give the logits, or takes no module's output.
    """
    calls, logits = Replay(segmenter, next(iter(segmenter.hookpoints)))._calls(images)
    own = [
        call for call in calls if next(segmenter.network.get_submodule(call.module).parameters(False), None) is not None
    ]
    last = max(own, key=lambda call: call.end)
    taken = next(_tensors(last.inputs), None)
    giver = [call.module for call in calls if call.end < last.end and call.output is taken]
    given = last.output
    whole = with_depth(given, logits.ndim) if isinstance(given, Tensor) and given.ndim in (4, 5) else logits[:0]
    if not torch.equal(resized(whole, extent_of(images)), logits):
        raise ValueError(f"the last layer {last.module!r} does not give the logits; refit another part of the network")
    if not giver:
        raise ValueError(f"the last layer {last.module!r} takes no other module's output as it is")
    return last.module, giver[-1]


@contextmanager
def _replaced_forwards(makers: Mapping[str, tuple[nn.Module, Callable[[str, Forward], Forward]]]) -> Iterator[None]:
    replaced: list[str] = []
    earlier: dict[str, Any] = {}
    try:
        for name, (module, maker) in makers.items():
            if "forward" in module.__dict__:  # someone (a wrapper) has already put one on the instance
                earlier[name] = module.__dict__["forward"]
            module.forward = maker(name, module.forward)
            replaced.append(name)
        yield
    finally:
        for name in replaced:
            module = makers[name][0]
            module.__dict__.pop("forward", None)
            if name in earlier:
                module.forward = earlier[name]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def _shaken(grid: TokenGrid) -> TokenGrid:
    """Another activation, in every value: what does not notice does not depend on the hookpoint."""
    noise = torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)).to(grid)
    return grid + (grid.std() + 1) * noise


def _equal(one: Any, other: Any) -> bool:
    """Whether two calls got or gave the same; what cannot be compared counts as different."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (isinstance(one, int | float | str | bool) and one == other)
