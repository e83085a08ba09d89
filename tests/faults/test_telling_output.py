"""Output that nobody reads, that an encoding cannot hold, and names that are not UTF-8: work does not depend on it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.scans import write_cohort
from tests.toys import answer
from tests.unit.runtime.test_streams import unread_pipe

from seglens import cli
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_stages

LATIN = os.fsdecode(b"M\xfcller")
"""A name as a Latin-1 system wrote it."""


def damaged_cohort(folder: Path) -> Path:
    """A case that is whole and one that is quarantined."""
    broken = write_cohort(folder) / "b/b_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-50])
    return folder


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_row_79_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, streams: tuple[str]) -> None:
    """Where the reader of the output or of the error stream has gone, the work is done and its exit code is its own."""
    root = damaged_cohort(tmp_path / "c")
    pipes = [unread_pipe() for _ in streams]
    for name, pipe in zip(streams, pipes, strict=True):
        monkeypatch.setattr(sys, name, pipe)
    assert answer(monkeypatch, "check", root, "--out", tmp_path / "seen") == cli.QUARANTINED
    assert json.loads((tmp_path / "seen/quarantine.json").read_text())["cohorts"][0]["quarantined"] == ["b"]
    assert answer(monkeypatch, "check", tmp_path / "nowhere") == cli.REFUSED
    for pipe in pipes:
        pipe.close()


def test_row_79_a_worker_s_pipe_is_no_reader_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that breaks elsewhere, such as to a worker that was killed, is a fault and never "done"."""

    def examine() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("seglens.doctor.examine", examine)
    assert answer(monkeypatch, "doctor") == cli.FAULT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_row_79_a_full_disk_behind_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output that a full disk did not take is said on the error stream, by exit code 2."""
    full = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w")))
    monkeypatch.setattr(sys, "stdout", full)
    assert answer(monkeypatch, "run", "--example") == cli.REFUSED
    full.close()
    assert "all is done, but not all of the output was written: No space left" in capsys.readouterr().err


@pytest.mark.processes
def test_row_79_of_a_process(tmp_path: Path) -> None:
    """A process whose two streams nobody reads leaves what it should, with the exit code that it should."""
    root = damaged_cohort(tmp_path / "c")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "seglens.cli", "check", str(root), "--out", str(tmp_path / "seen")]
    assert subprocess.run(command, stdout=write, stderr=write, check=False).returncode == cli.QUARANTINED
    assert "truncated" in (tmp_path / "seen/quarantine.txt").read_text()
    os.close(write)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_row_80_an_encoding_without_the_character(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """What the terminal's encoding lacks is printed as an escape, and the exit code stays."""
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    monkeypatch.setattr("seglens.doctor.examine", lambda: (f"3 \N{RIGHTWARDS ARROW} 4 in {LATIN}", True))
    assert answer(monkeypatch, "doctor") == cli.DONE
    arrow = "\N{RIGHTWARDS ARROW}".encode(encoding, errors="backslashreplace")
    assert content.getvalue() == b"3 " + arrow + b" 4 in M\\udcfcller\n"


def latin_folder(folder: Path) -> Path:
    """A folder of that name, or a skip where the file system takes no such name."""
    try:
        (folder / LATIN).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("the file system holds UTF-8 names only")
    return folder / LATIN


def test_row_80_file_names_that_are_not_utf_8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files, folders and cases whose names are not UTF-8 are checked like others; reports hold the names escaped."""
    root = write_cohort(latin_folder(tmp_path), [LATIN, "b"])
    broken = root / LATIN / f"{LATIN}_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-50])
    out = tmp_path / f"out {LATIN}"
    assert answer(monkeypatch, "check", root, "--out", out) == cli.QUARANTINED
    (report,) = json.loads((out / "quarantine.json").read_text("utf-8"))["cohorts"]
    assert report["cohort"] == report["quarantined"][0] == "M\\udcfcller"
    assert report["findings"][0]["file"] == broken.name  # a file's name reads back as what it is
    assert "M\\udcfcller" in (out / "quarantine.txt").read_text("utf-8")
    again = write_cohort(root / "again", [LATIN, "b"])
    assert answer(monkeypatch, "check", again, "--out", tmp_path / "again") == cli.DONE


def test_row_80_a_study_of_such_files(tmp_path: Path) -> None:
    """A study whose folder and cases have such names leaves slices whose index holds the names escaped."""
    write_cohort(latin_folder(tmp_path) / "c", [LATIN, "b", "c", "d", "e"], n_sequences=1)
    study = {
        "name": "latin",
        "seed": 0,
        "sequences": ["T1"],
        "size": 32,
        "cohorts": {"c": {"sources": [{"path": str(tmp_path / LATIN / "c")}]}},
        "segmenters": {"s": {"cohort": "c", "steps": 1}},
    }
    settings = StudySettings.parse({**study, "cohorts": {"c": {"sources": [{"path": "."}]}}}, "here")
    source = settings.cohorts["c"].sources[0]
    source = source.__class__(**{**vars(source), "path": tmp_path / LATIN / "c"})
    cohorts = {"c": settings.cohorts["c"].model_copy(update={"sources": [source]})}
    settings = settings.model_copy(update={"cohorts": cohorts})
    run = run_stages(settings, tmp_path / LATIN / "run", ["slices"])
    assert "M\\udcfcller" in run.artifact("slices/c").table("index")["case"].to_list()


def test_row_80_a_label_that_is_no_text(tmp_path: Path) -> None:
    """A label with half of a surrogate pair is read, and escaped."""
    for case in ("a", "b", "c"):
        for folder, data in (("imagesTr", f"{case}_0000"), ("labelsTr", case)):
            source = write_cohort(tmp_path / "brats", [case], n_sequences=1) / case
            target = tmp_path / "raw" / folder / f"{data}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / f"{case}_{'t1' if folder == 'imagesTr' else 'seg'}.nii.gz").read_bytes())
    labels = {"background": 0, "half \ud800": 1, "edema": 2, "more": 3, "most": 4}
    described = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz"}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(described))
    cohort = read_cohort(tmp_path / "raw")
    assert cohort.labels[1] == "half \\ud800"
    assert not check_cohort(cohort).quarantined
