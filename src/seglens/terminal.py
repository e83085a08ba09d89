"""Progress of a stage on the command line: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seglens.runtime import progress as reporting
from seglens.runtime.signals import sign_of_life, stop_if_asked

LINE_EVERY_SECONDS = 15.0


class StageDisplay:
    """Announces stages on a console; call it with a stage's name and use the result as a context.

    Args:
        console: where to; None takes the standard error stream.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )

    @contextmanager
    def __call__(self, stage: str) -> Iterator[reporting.Progress]:
        """Show one stage from start to end; several may be shown at once."""
        stop_if_asked()  # a signal that came in a place from which nothing can be raised is not lost
        sign_of_life()
        started = time.perf_counter()
        with self._bar(stage) if self.console.is_terminal else self._lines(stage) as update:
            yield update
        self.console.print(f"{stage:<36} {time.perf_counter() - started:7.1f} s", highlight=False, soft_wrap=True)

    @contextmanager
    def _bar(self, stage: str) -> Iterator[reporting.Progress]:
        if not self._bars.tasks:
            self._bars.start()
        task = self._bars.add_task(stage, total=None, rate="", figures="")

        def update(done: int, total: int, **figures: float) -> None:
            sign_of_life()
            speed = next(shown.speed for shown in self._bars.tasks if shown.id == task)
            rate = f"{speed:.1f}/s" if speed else ""
            self._bars.update(task, completed=done, total=total, rate=rate, figures=_figures(figures))

        try:
            yield update
        finally:
            self._bars.refresh()
            self._bars.remove_task(task)
            if not self._bars.tasks:
                self._bars.stop()

    @contextmanager
    def _lines(self, stage: str) -> Iterator[reporting.Progress]:
        started = shown = time.perf_counter()

        def update(done: int, total: int, **figures: float) -> None:
            nonlocal shown
            sign_of_life()
            now = time.perf_counter()
            if done and now - shown >= LINE_EVERY_SECONDS:
                shown = now
                rate = done / (now - started)
                left = (total - done) / rate
                text = f"{stage}: {done} of {total}, {rate:.1f}/s, {left:.0f} s left {_figures(figures)}"
                self.console.print(text.rstrip(), highlight=False, soft_wrap=True)

        yield update


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
