"""Output that no work depends on: its reader may go, and its encoding may lack a character."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a file that takes no more; any other says that nobody reads."""


class LastingStream:
    r"""Text stream that takes everything: once its reader is gone, the rest goes nowhere.

    What its encoding lacks is written as an escape: an arrow in cp1252 as ``\u2192``; the byte fc of a file name that
    is not UTF-8 as ``\udcfc``.

    Args:
        stream: text stream to be written to, such as ``sys.stdout``.

    Attributes:
        full: the words of the system where a disk took no more; "" otherwise.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.full = ""
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text, or nothing where nobody reads."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._end(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _end(self, error: OSError) -> None:
        if error.errno in _FULL:
            self.full = error.strerror or str(error)
        # also what is buffered already would fail again, at the latest when the process ends
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Inside, standard output and error are `LastingStream`; one that the process was not given leads nowhere.

    Yields:
        Standard output.
    """
    before = sys.stdout, sys.stderr
    with ExitStack() as stack:
        out, error = (
            LastingStream(stream or stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")))
            for stream in before
        )
        sys.stdout, sys.stderr = out, error
        try:
            yield out
        finally:
            out.flush()
            error.flush()
            sys.stdout, sys.stderr = before


def printable(text: str) -> str:
    """Control characters (newlines, terminal commands) as escapes, so that a name cannot pass for something else."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
