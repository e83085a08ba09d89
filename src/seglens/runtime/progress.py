"""Progress as a callback: core functions report, the command line draws."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Told how far a stage has come: ``done`` of ``total`` steps, with figures worth showing (loss, Dice)."""

    def __call__(self, done: int, total: int, **figures: float) -> None:
        """Report; must return quickly and never raise."""


def part_of(progress: Progress, before: int, whole: int) -> Progress:
    """Progress of one step of several: ``before`` of ``whole`` are done when it starts."""

    def report(done: int, total: int, **figures: float) -> None:
        progress(before + done, whole, **figures)

    return report


def silent(done: int, total: int, **figures: float) -> None:
    """Report nothing."""


Announce = Callable[[str], AbstractContextManager[Progress]]
"""Told a stage's name when it starts; the context lasts as long as the stage and gives its progress callback."""


def unseen(stage: str) -> AbstractContextManager[Progress]:
    """Announce nothing."""
    return nullcontext(silent)
