"""Plain lines without a terminal, a bar on one."""

import io

from rich.console import Console

from seglens import terminal
from seglens.runtime.progress import silent


def _shown(*, on_terminal: bool, monkeypatch) -> str:
    monkeypatch.setattr(terminal, "LINE_EVERY_SECONDS", 0.0)
    file = io.StringIO()
    console = Console(file=file, force_terminal=on_terminal, width=120)
    with terminal.StageDisplay(console)("segmenter/adult") as progress:
        progress(0, 10)
        progress(5, 10, loss=0.25)
        progress(10, 10, loss=0.125)
    return file.getvalue()


def test_plain_lines_show_count_rate_and_figures(monkeypatch):
    lines = _shown(on_terminal=False, monkeypatch=monkeypatch).splitlines()
    assert lines[0].startswith("segmenter/adult: 5 of 10, ")
    assert lines[0].endswith("s left loss 0.25")
    assert lines[-1].startswith("segmenter/adult")
    assert lines[-1].endswith(" s")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch):
    text = _shown(on_terminal=True, monkeypatch=monkeypatch)
    assert "10/10" in text
    assert "loss 0.125" in text


def test_silence_is_silent(capsys):
    silent(1, 2, loss=3.0)
    assert capsys.readouterr() == ("", "")
