"""Exit codes, words without tracebacks, and what the doctor says of a run."""

import json
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from seglens import cli
from seglens.artifacts import locked, new_artifact
from seglens.runs import STAGE_FORMAT, Run, Stage
from seglens.runtime.atomic import WritingError
from seglens.runtime.oom import NotEnoughMemoryError
from seglens.runtime.signals import Stopped
from seglens.studies.integrity import integrity_of

PAGE = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def answer(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["seglens", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_page_has_the_codes_of_the_command():
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), flags=re.MULTILINE)}
    stops = {Stopped(number).exit_code for number in (signal.SIGTERM, signal.SIGINT)}
    assert listed == {cli.DONE, cli.FAULT, cli.REFUSED, cli.QUARANTINED, *stops}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("size is 3; give 32"), 2, "seglens: size is 3; give 32\n"),
        (FloatingPointError("the loss is nan"), 2, "seglens: the loss is nan\n"),
        (NotEnoughMemoryError("half of 4"), 2, "seglens: half of 4\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            2,
            "seglens: out of memory: CUDA out of memory. Tried; make batches (batch_size) or slices (size) smaller, "
            "or start more processes\n",
        ),
        (KeyError("x"), 1, "seglens: KeyError: 'x'\nadd --debug for the traceback\n"),
        (Stopped(signal.SIGTERM), 143, "seglens: stopped by SIGTERM; the same command goes on where this one was\n"),
        (Stopped(signal.SIGINT), 130, "seglens: stopped by SIGINT; the same command goes on where this one was\n"),
    ],
)
def test_every_error_has_a_code_and_plain_words(monkeypatch, capsys, error, code, said):
    def examine():
        raise error

    monkeypatch.setattr("seglens.doctor.examine", examine)
    assert answer(monkeypatch, "doctor") == code
    assert capsys.readouterr().err == said
    assert answer(monkeypatch, "--debug", "doctor") == code
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) == (code < 128)


def test_what_fails_because_workers_were_stopped_is_a_stop(monkeypatch, capsys):
    def examine():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("a worker ended")

    monkeypatch.setattr("seglens.doctor.examine", examine)
    assert answer(monkeypatch, "doctor") == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path) -> Path:
    """Three finished stages, one that was begun, and an artifact of other settings."""
    run = Run(tmp_path / "run")
    stages = [Stage(f"numbers/{value}", "number", {"value": value}) for value in range(4)]

    def make(stage):
        def made(path, checkpoint):
            with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
                draft.save_document("number", stage.inputs["value"])
                draft.save_tensors("tensor", {"x": torch.arange(100)})

        return made

    with run.writing({"name": "other"}):
        run.finish(stages[3], make(stages[3]))
    (run.path / "run.json").unlink()
    with run.writing({"name": "a"}):
        for stage in stages[:3]:
            run.finish(stage, make(stage))
    (run.path / "checkpoints" / "numbers-9-abc").mkdir(parents=True)
    return run.path


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def test_a_whole_run(run, monkeypatch, capsys):
    assert answer(monkeypatch, "doctor", str(run)) == 0
    said = capsys.readouterr().out
    assert f"{run}: 3 finished stages, 3 of them whole" in said
    assert "begun         numbers-9-abc: the next run goes on from its checkpoint" in said
    assert "spare         1 artifacts (0 MiB) of other settings" in said


def test_what_is_damaged_is_named_set_aside_and_made_again(run, monkeypatch, capsys):
    folders = [Run(run).artifact(f"numbers/{value}").path for value in range(3)]
    flip(folders[0] / "tensor.safetensors")
    for file in folders[1].iterdir():
        file.unlink()
    folders[1].rmdir()
    assert answer(monkeypatch, "doctor", str(run)) == 1
    said = capsys.readouterr().out
    assert "3 finished stages, 1 of them whole" in said
    assert re.search(r"DAMAGED +numbers/0: .*tensor.safetensors", said)
    assert re.search(r"REDONE +numbers/1: its artifact is gone", said)
    assert folders[0].is_dir()
    assert answer(monkeypatch, "doctor", str(run), "--repair") == 3
    assert (run / "damaged" / folders[0].name / "tensor.safetensors").is_file()
    assert not folders[0].exists()
    assert [stage.fault for stage in integrity_of(run).stages] == ["its artifact is gone"] * 2 + [""]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "number.json").unlink(), "number.json"),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace('"value": 2', '"value": 5')
            ),
            "its manifest.json was changed",
        ),
    ],
)
def test_every_damage_is_seen(run, change, fault):
    change(Run(run).artifact("numbers/2").path)
    (stage,) = integrity_of(run).faulty
    assert stage.stage == "numbers/2"
    assert fault in stage.fault


def test_an_older_version_and_a_damaged_book(run, monkeypatch, capsys):
    books = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(books | {"format": STAGE_FORMAT - 1}))
    assert "REDONE        all stages: this version computes something else" in integrity_of(run).text()
    outside = [json.dumps({"stages": {"a": {"folder": name, "hash": "0"}}}) for name in ("..", "../..", "/etc", "")]
    for content in ("{", "[]", '{"stages": 3}', '{"stages": {"a": 1}}', *outside):
        (run / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json is damaged; remove it and run the study again"):
            integrity_of(run)
    (run / "run.json").unlink()
    assert answer(monkeypatch, "doctor", str(run)) == 2
    assert "holds no run.json; give the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "said"), [(("--out", ""), "after --out;"), (("--out=",), "after --out=;")])
def test_an_empty_option_is_not_the_present_folder(monkeypatch, capsys, tmp_path, option, said):
    monkeypatch.chdir(tmp_path)
    assert answer(monkeypatch, "check", str(tmp_path), *option) == 2
    assert f"nothing is given {said} give a value, or leave the option out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system of Linux")
def test_a_place_where_no_folder_can_be_made():
    for write in (locked, new_artifact):
        arguments = {} if write is locked else {"kind": "a", "inputs": {}}
        said = r"/proc/x.* cannot be made: no folder can be made at that place"
        with pytest.raises(WritingError, match=said), write(Path("/proc/x/y"), **arguments):
            pass
