"""A batch that the device has no memory for is done in two halves."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
log = logging.getLogger(__name__)


class NotEnoughMemoryError(ValueError):
    """The device has no memory for a batch, nor for half of it; the message says what to change."""


class Halving:
    """Does batches whole, until the device runs out of memory: that one and all later ones are done in two halves.

    Once, not again and again: who runs out at half the batch too is told so, instead of being served ever more slowly.

    Args:
        what: what is done, for the messages, such as ``"training"``.
        fix: what to change where half a batch is too much too.
    """

    def __init__(self, what: str, fix: str):
        self.halved = False
        self._what = what
        self._fix = fix

    def parts(self, work: Callable[[Sequence[int]], T], rows: Sequence[int]) -> list[T]:
        """``work`` on all rows, as a list of one; or on each half of them.

        Args:
            work: what is done with a batch; where it fails for want of memory it is called again.
            rows: at least one.

        Raises:
            NotEnoughMemoryError: half of the rows are too many too.
        """
        middle = (len(rows) + 1) // 2
        halves = [half for half in (rows[:middle], rows[middle:]) if len(half)]
        return self.whole_or_halves(lambda: [work(rows)], lambda: [work(half) for half in halves], len(rows))

    def whole_or_halves(self, whole: Callable[[], T], halves: Callable[[], T], size: int) -> T:
        """``whole()``, or ``halves()`` from the first batch on that the device has no memory for.

        Args:
            whole: does a batch at once, and leaves nothing behind where it fails.
            halves: does the same in two halves.
            size: of the batch.

        Raises:
            NotEnoughMemoryError: the halves are too large too.
        """
        reason = ""
        if not self.halved:
            try:
                return whole()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = first_line(error)
            # only here, after the handler, is the failed attempt's memory free: the error holds its frames
            self.halved = True
            _give_back()
            log.warning("%s: out of memory with %d at once; from here on in halves", self._what, size)
        try:
            return halves()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = first_line(error)
        _give_back()
        raise NotEnoughMemoryError(f"{self._what}: out of memory with half of {size} at once ({reason}); {self._fix}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this machine, has no more memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
