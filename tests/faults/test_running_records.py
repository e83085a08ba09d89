"""A run that goes on with other threads or versions than it was begun with."""

from dataclasses import replace

import pytest
import torch

from seglens.artifacts import new_artifact
from seglens.runs import Run, Stage
from seglens.runtime.provenance import OtherRecordWarning


def _stage(value):
    return Stage("numbers/one", "number", {"value": value})


def _make(stage):
    def make(path, checkpoint):
        with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
            draft.save_document("number", stage.inputs["value"])

    return make


def test_row_84_another_version(tmp_path, monkeypatch):
    """A stage is not computed from what other versions left, unless `mixed: true` allows it; both are named."""
    run = Run(tmp_path)
    one, two = _stage(1), Stage("numbers/two", "number", {"value": 1})
    with run.writing({"name": "a"}):
        before = run.finish(one, _make(one))
    other = replace(before.computed_by, versions={**before.computed_by.versions, "torch": "9.9"})
    monkeypatch.setattr("seglens.runtime.provenance.Provenance.current", lambda: other)
    with Run(tmp_path).writing({"name": "a"}) as run:
        run.finish(one, _make(one))  # what is finished is taken
        message = r"numbers/two would be computed by .*torch 9\.9.*, but numbers/one in .*neither.*`mixed: true`"
        with pytest.raises(ValueError, match=message):
            run.finish(two, _make(two))
        assert run.stages() == ["numbers/one"]
    with pytest.warns(OtherRecordWarning), Run(tmp_path).writing({"name": "a"}) as run:
        run.finish(one, _make(one))
        assert run.finish(two, _make(two), mixed=True).computed_by == other


def test_row_84_another_number_of_threads(tmp_path):
    """A run goes on with the threads a stage that it was begun with, and says so where it would have taken others."""
    before = torch.get_num_threads()
    one, two = _stage(1), Stage("numbers/two", "number", {"value": 1})
    try:
        torch.set_num_threads(8)
        with Run(tmp_path).writing({"name": "a"}) as run:
            assert torch.get_num_threads() == 2
            assert run.finish(one, _make(one)).computed_by.threads == 2
        assert torch.get_num_threads() == 8
        (tmp_path / "run.json").unlink()  # as where it was killed before it was written
        torch.set_num_threads(1)
        sentence = "was begun with 2 threads a stage and goes on so, where this process would take 1"
        with pytest.warns(OtherRecordWarning, match=sentence), Run(tmp_path).writing({"name": "a"}) as run:
            run.finish(one, _make(one))
            assert run.finish(two, _make(two)).computed_by.threads == 2
        assert len(run.records) == 1
    finally:
        torch.set_num_threads(before)
