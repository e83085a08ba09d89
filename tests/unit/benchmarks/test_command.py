import json

import pytest
from benchmarks import __main__ as command
from benchmarks.runner import run
from benchmarks.table import BEGIN, END, update_page
from tests.unit.benchmarks import toy

ROW = {"benchmark": str, "case": str, "subject": str, "cpu_ms": float, "wall_ms": float, "peak_mib": float}
RATIOS = {"x_floor", "x_best_peer"}


@pytest.fixture
def toy_command(bare_workers, monkeypatch):
    def run_toy(benchmark, module, **settings):
        return run(benchmark, "tests.unit.benchmarks.toy", **settings)

    monkeypatch.setattr(command, "load", lambda name: toy.BENCHMARK)
    monkeypatch.setattr(command, "run", run_toy)
    monkeypatch.setattr("benchmarks.machine.versions", lambda name: {name: "1.0"})


def test_one_command_prints_and_writes_everything(toy_command, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("rows.json", "details.json", "growth.svg", "page.md")}
    arguments = ["--only", "toy", "--repeats", "2", "--json", str(files["rows.json"])]
    arguments += ["--details", str(files["details.json"]), "--plot", str(files["growth.svg"])]
    assert command.main([*arguments, "--markdown", str(files["page.md"])]) == 0

    rows = json.loads(files["rows.json"].read_text())
    assert len(rows) == 3 * 6
    for row in rows:
        assert set(row) == {*ROW, *RATIOS}
        assert all(isinstance(row[key], kind) for key, kind in ROW.items())
        assert all(row[key] is None or isinstance(row[key], float) for key in RATIOS)
    details = json.loads(files["details.json"].read_text())
    assert len(details["left_out"]) == 3 * 5 and any(line.startswith("machine: ") for line in details["header"])
    assert [one["subject"] for one in details["growth"]] == [row["subject"] for row in rows[:6]]
    assert files["growth.svg"].read_text().startswith("<svg")

    printed = capsys.readouterr()
    assert "toy: Sums of whole numbers." in printed.out and "threads: toy 2" in printed.out
    assert "left out: refusing: the peer is not for this machine" in printed.out
    assert "slope of time" in printed.out
    assert "ValueError: broken in set-up" in printed.err and "Traceback" in printed.err
    page = files["page.md"].read_text()
    assert (
        "](growth.svg)" in page
        and "### toy" in page
        and "| small | ours |" in page
        and "left out: dying: its process ended" in page
    )


def test_one_case_and_the_list(toy_command, tmp_path, capsys):
    assert command.main(["--only", "toy", "--case", "twice", "--repeats", "2", "--json", str(tmp_path / "r")]) == 0
    assert {row["case"] for row in json.loads((tmp_path / "r").read_text())} == {"twice"}
    capsys.readouterr()
    assert command.main(["--only", "toy", "--list"]) == 0
    assert "cases: small; twice; four times" in capsys.readouterr().out


def test_a_page_keeps_its_words_and_the_benchmarks_that_were_not_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BEGIN}\n{END}\n\nAfter.\n")
    update_page(page, {"one": "first", "two": "second"})
    update_page(page, {"two": "second, again"})
    update_page(page, {"three": "third"})
    text = page.read_text()
    assert text.startswith(f"Before.\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nAfter.\n")
    assert [word in text for word in ("first", "second, again", "third", "second\n")] == [True, True, True, False]
    assert text.index("first") < text.index("second, again") < text.index("third")


def test_a_page_without_its_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("No place for a table.\n")
    with pytest.raises(ValueError, match="must have one line <!-- benchmarks -->"):
        update_page(page, {"one": "first"})
    assert page.read_text() == "No place for a table.\n"
