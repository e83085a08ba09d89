"""Output that no work depends on."""

import io
import os
import sys
from pathlib import Path

import pytest

from seglens.runtime.streams import LastingStream, lasting_streams, printable


def unread_pipe(encoding: str = "utf-8") -> io.TextIOWrapper:
    """A stream whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return io.TextIOWrapper(io.FileIO(write, "w"), encoding=encoding, write_through=True)


def test_without_a_reader_all_is_taken_and_nothing_is_full():
    stream = LastingStream(unread_pipe())
    for _ in range(3):
        assert stream.write("text" * 5000) == 20000
    stream.flush()
    stream.close()
    assert stream.full == ""


def test_what_is_buffered_for_a_reader_that_has_gone_ends_in_nothing():
    read, write = os.pipe()
    stream = LastingStream(io.TextIOWrapper(io.BufferedWriter(io.FileIO(write, "w"))))
    stream.write("one")
    os.close(read)
    stream.flush()
    stream.write("two")
    stream.close()
    assert stream.full == ""


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "é → \\udcfc".encode()),
        ("cp1252", b"\xe9 \\u2192 \\udcfc"),
        ("ascii", b"\\xe9 \\u2192 \\udcfc"),
    ],
)
def test_what_an_encoding_lacks_is_an_escape(encoding, written):
    content = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(content, encoding=encoding))
    stream.write("é → " + os.fsdecode(b"\xfc"))
    stream.flush()
    assert content.getvalue() == written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_remembered():
    stream = LastingStream(io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w"))))
    stream.write("text")
    assert stream.full == ""
    stream.flush()
    assert "space" in stream.full
    stream.write("more")
    stream.close()


def test_inside_both_streams_last_and_afterwards_they_are_what_they_were(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)  # as a process has it that was started with `2>&-`
    with lasting_streams() as lasting:
        assert sys.stdout is lasting
        print("seen")
        print("not seen", file=sys.stderr)
        assert sys.stderr is not None and not sys.stderr.isatty()
    assert (sys.stdout, sys.stderr) == (out, None)
    assert out.getvalue() == "seen\n"


def test_printable() -> None:
    assert printable("é\n\x1b[2J\u202e") == "é\\n\\x1b[2J\\u202e"
