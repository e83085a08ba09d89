"""The part of a network before a hookpoint, computed once and replayed for every edit.

The forward methods of the outermost modules that are finished when the hookpoint is, and of the hookpoint itself, are
replaced for the length of one pass: while recording by a wrapper that keeps the output, while replaying by a function
that gives it back. So nothing of the network has to be known, hooks on those modules still run, and the rest computes
the very same bits.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seglens.activations.hooks import Change, edit
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits

Forward = Callable[..., Any]


@dataclass
class _Call:
    module: str
    parent: "_Call | None"
    end: int = -1
    output: Any = None
    versions: list[int] = field(default_factory=list)
    kept: bool = False  # replayed, and in no replayed call

    @property
    def hidden(self) -> bool:
        """Inside a replayed call: it does not happen in a replay."""
        return self.parent is not None and (self.parent.kept or self.parent.hidden)


class Replay:
    """One segmenter, one hookpoint, one batch at a time.

    `record` runs the whole network on a batch; `logits` then runs only what follows the hookpoint, with a change of its
    activation, as often as wanted. Where a replay cannot be exact (a later module writes into a recorded output, or
    the replayed logits of the first batch differ from the recorded ones in any bit) `logits` runs the whole network:
    slower, same numbers.
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

    @property
    def replayed_modules(self) -> list[str]:
        """Names of the modules that are not computed again; empty before the first batch."""
        return sorted(self._plan) if self._plan and self.exact else []

    @torch.no_grad()
    def record(self, images: Images) -> Logits:
        """Run the whole network, keep what the prefix gave, return the unedited logits."""
        self._images = images
        first = self._plan is None
        if self._plan is None:
            self._plan, self.exact = self._trace(images[:1])
        self._kept = defaultdict(list)
        with self._replaced(self._recorder if self.exact else None):
            logits = self.segmenter.logits(images)
        if first and self.exact:
            self.exact = torch.equal(self.logits(), logits)
        return logits

    def logits(self, change: Change | None = None) -> Logits:
        """Logits of the recorded batch with ``change`` at the hookpoint; gradients flow where they are enabled."""
        if self._images is None:
            raise ValueError("nothing recorded; call record(images) first")
        with self._replaced(self._player if self.exact else None):
            if change is None:
                return self.segmenter.logits(self._images)
            with edit(self.segmenter, self.hookpoint, change):
                return self.segmenter.logits(self._images)

    def _trace(self, images: Images) -> tuple[dict[str, list[str]], bool]:
        calls: list[_Call] = []
        stack: list[_Call] = []
        clock = iter(range(2**62))

        def tracer(name: str, forward: Forward) -> Forward:
            def traced(*args: Any, **kwargs: Any) -> Any:
                call = _Call(name, stack[-1] if stack else None)
                calls.append(call)
                stack.append(call)
                call.output = forward(*args, **kwargs)
                stack.pop()
                call.end = next(clock)
                call.versions = [tensor._version for tensor in _tensors(call.output)]
                return call.output

            return traced

        with _replaced_forwards({name: (self._modules[name], tracer) for name in self._modules}):
            self.segmenter.logits(images)
        target = self.segmenter.place(self.hookpoint).module
        ends = [call.end for call in calls if call.module == target]
        if not ends:
            raise ValueError(f"hookpoint {self.hookpoint!r}: its module {target!r} does not run; choose another")
        for call in calls:  # a parent starts before its children, so it has been decided when they are
            call.kept = call.end <= ends[0] and not call.hidden
        plan: dict[str, list[str]] = defaultdict(list)
        for call in calls:
            plan[call.module].append("hidden" if call.hidden else "replay" if call.kept else "run")
        exact = all(
            call.versions == [tensor._version for tensor in _tensors(call.output)] for call in calls if call.kept
        )
        return {name: fates for name, fates in plan.items() if "replay" in fates}, exact

    def _replaced(self, maker: Callable[[str, Forward], Forward] | None) -> Any:
        names = self._plan if self._plan and maker else {}
        return _replaced_forwards({name: (self._modules[name], maker) for name in names if maker})

    def _recorder(self, name: str, forward: Forward) -> Forward:
        fates = iter(self._fates(name))

        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if next(fates, "run") == "replay":
                self._kept[name].append(output)
            return output

        return recorded

    def _player(self, name: str, forward: Forward) -> Forward:
        fates = iter([fate for fate in self._fates(name) if fate != "hidden"])
        outputs = iter(self._kept[name])

        def played(*args: Any, **kwargs: Any) -> Any:
            return next(outputs) if next(fates, "run") == "replay" else forward(*args, **kwargs)

        return played

    def _fates(self, name: str) -> list[str]:
        return self._plan[name] if self._plan else []


@contextmanager
def _replaced_forwards(makers: Mapping[str, tuple[nn.Module, Callable[[str, Forward], Forward]]]) -> Iterator[None]:
    replaced: list[str] = []
    earlier: dict[str, Any] = {}
    try:
        for name, (module, maker) in makers.items():
            if "forward" in module.__dict__:  # someone (accelerate, a wrapper) has already put one on the instance
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
