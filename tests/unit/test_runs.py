"""A finished stage is reused, another input makes another artifact, and only one process writes."""

import subprocess
import sys
from dataclasses import replace

import pytest

from seglens.artifacts import new_artifact
from seglens.runs import Run, Stage
from seglens.runtime.provenance import OtherRecordWarning
from seglens.summaries import summary_of


def _stage(value: int) -> Stage:
    return Stage("numbers/one", "number", {"value": value})


def _make(stage: Stage, calls: list[str]):
    def make(path, checkpoint):
        calls.append(stage.folder)
        checkpoint.mkdir(parents=True)
        with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
            draft.save_document("number", stage.inputs["value"])

    return make


def test_equal_inputs_are_computed_once(tmp_path):
    run, calls = Run(tmp_path), []
    with run.writing({"name": "a"}):
        for value in (1, 1, 2, 1):
            stage = _stage(value)
            assert run.finish(stage, _make(stage, calls)).document("number") == value
    assert len(calls) == 2
    assert run.artifact("numbers/one").document("number") == 1
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_new_look_at_the_folder_sees_the_same(tmp_path):
    run, stage = Run(tmp_path), _stage(3)
    with run.writing({"name": "a"}):
        run.finish(stage, _make(stage, []))
    again = Run(tmp_path)
    assert again.stages() == ["numbers/one"] == again.stages("numbers/")
    assert "numbers/one" in again
    assert again.hashes == run.hashes
    assert again.timings["numbers/one"] >= 0
    assert summary_of(again) is None
    with pytest.raises(ValueError, match="no stage 'nothing'; finished are numbers/one"):
        again.artifact("nothing")


def test_a_run_that_goes_on_under_another_record_names_the_artifacts(tmp_path, monkeypatch):
    run = Run(tmp_path)
    with run.writing({"name": "a"}):
        before = run.finish(_stage(1), _make(_stage(1), []))
    other = replace(before.computed_by, instruction_set="AVX9000")
    monkeypatch.setattr("seglens.runtime.provenance.Provenance.current", lambda: other)
    two = Stage("numbers/two", "number", {"value": 1})
    with pytest.warns(OtherRecordWarning, match=r"numbers/two by .*AVX9000"), run.writing({"name": "a"}):
        after = run.finish(two, _make(two, []))
    assert after.computed_by == other and after.hash == before.hash
    assert len(run.records) == 2


def test_another_study_in_the_folder_is_refused_until_the_books_are_removed(tmp_path):
    stage, calls = _stage(1), []
    with Run(tmp_path).writing({"name": "a", "k": {"x": 1}, "store": True}) as run:
        run.finish(stage, _make(stage, calls))
    with Run(tmp_path).writing({"name": "a", "k": {"x": 1}, "store": True}) as run:
        assert run.stages() == ["numbers/one"]
    message = r'holds another study: k\.x was 1, is 2; name was "a", is "b"\. Give another folder, .*run\.json'
    with pytest.raises(ValueError, match=message), Run(tmp_path).writing({"name": "b", "k": {"x": 2}}):
        pass
    with Run(tmp_path).writing({"name": "a", "k": {"x": 1}, "store": False}) as run:
        assert run.stages() == []
    (tmp_path / "run.json").unlink()
    with Run(tmp_path).writing({"name": "b"}) as run:
        run.finish(stage, _make(stage, calls))
    assert len(calls) == 1


def test_a_failing_stage_leaves_its_checkpoint_and_no_artifact(tmp_path):
    run, stage = Run(tmp_path), _stage(1)

    def fail(path, checkpoint):
        checkpoint.mkdir(parents=True)
        (checkpoint / "state").write_text("half")
        raise RuntimeError

    with run.writing({}), pytest.raises(RuntimeError):
        run.finish(stage, fail)
    assert (tmp_path / "checkpoints" / stage.folder / "state").read_text() == "half"
    assert not (tmp_path / "artifacts").exists()


def test_damaged_books_are_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged .*; remove it, and finished stages are found again"):
        Run(tmp_path)


@pytest.mark.processes
def test_two_writers_are_refused(tmp_path):
    with Run(tmp_path).writing({}):
        script = f"""
import pathlib
from seglens.runs import Run
with Run(pathlib.Path({str(tmp_path)!r})).writing({{}}): print("got it")
"""
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "is being written by process" in other.stderr


@pytest.mark.parametrize(
    "content", ["[]", "3", "{", '{"stages": {}, "stages": {}}', '{"stages": {"a": {"folder": "../b", "hash": "0"}}}']
)
def test_books_that_somebody_else_wrote(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json (is damaged|names the artifact '\.\./b', which leads out)"):
        Run(tmp_path).artifact("a")
