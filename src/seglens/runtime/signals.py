"""Duties of a running process to whoever started it: it stops when asked to, and shows that it lives.

A signal (SIGTERM, Ctrl-C) raises `Stopped` where the process is. Whatever is being written appears whole or not at all,
so that is safe anywhere; a loop whose state is worth keeping runs in `by_steps`, ends its step and writes a checkpoint.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_WISH_SECONDS = 2.0
"""Launchers and schedulers send a signal on to processes that have it already; what comes so soon is no second one."""

_asked: tuple[int, float] | None = None
_stepping = 0
_signs = 0


class Stopped(BaseException):
    """A signal asked this process to stop; no Exception, for nothing on the way may take it for a fault.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell names it: 143 after SIGTERM, 130 after Ctrl-C."""
        return 128 + self.number


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGINT raise `Stopped` in the main thread, in which this must be called."""
    global _asked  # noqa: PLW0603 - signals are state of the process
    before = {number: signal.signal(number, _heed) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


def _heed(number: int, frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603
    now = time.monotonic()
    if _asked is None:
        _asked = number, now
        if not _stepping:
            raise Stopped(number)
    elif now - _asked[1] > SAME_WISH_SECONDS:
        raise Stopped(number)


def asked_to_stop() -> int | None:
    """The number of the signal that has come; None: none has."""
    return None if _asked is None else _asked[0]


def stop_if_asked() -> None:
    """Raise `Stopped` where a signal has come."""
    if _asked is not None:
        raise Stopped(_asked[0])


@contextmanager
def by_steps() -> Iterator[None]:
    """Inside, a signal interrupts nothing: after each step the loop looks at `asked_to_stop`, and keeps its state.

    A second signal, `SAME_WISH_SECONDS` later or more, does not wait for the step.
    """
    global _stepping  # noqa: PLW0603
    _stepping += 1
    try:
        yield
    finally:
        _stepping -= 1
    stop_if_asked()


def follow_parent() -> None:
    """In a worker process: leave Ctrl-C to the process that started it, and end when that ends, however it does.

    Without this a worker whose parent was killed waits for its next task for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def sign_of_life() -> None:
    """Say that the main thread gets on; other processes at the same task may be watching."""
    global _signs  # noqa: PLW0603
    _signs += 1


def signs_of_life() -> int:
    """How many there have been."""
    return _signs
