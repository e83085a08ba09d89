import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.toys import TINY_SEGFORMER

from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.analyses.segmenter import identity, opened_segmenter, training_settings
from seglens.studies.compared import same_start
from seglens.studies.report import write_report
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import SettingsError, StudySettings
from seglens.studies.study import run_study


def test_an_epoch_shows_each_slice_once():
    own = SegmenterSettings(cohort="adult", epochs=2.5, batch_size=16, network={"depths": [1, 1, 1, 1]})
    found = training_settings(own, n_slices=100)
    assert found.steps == 16  # 250 slices, 16 at a time
    assert found.architecture_settings == {"depths": [1, 1, 1, 1]}
    assert training_settings(SegmenterSettings(cohort="adult", steps=7), n_slices=100).steps == 7


def test_settings_that_are_not_given_leave_the_hash_as_it_was():
    own = SegmenterSettings(cohort="adult", hookpoints="auto")
    assert set(identity(own)) == {
        *("cohort", "architecture", "steps", "batch_size", "learning_rate", "init_from", "pretrained")
    }
    assert identity(own.model_copy(update={"epochs": 3.0}))["epochs"] == 3.0


@pytest.fixture(scope="module")
def opened(finished, tmp_path_factory):
    """A study read from a file whose first segmenter is another run's, beside one that is trained; and its run."""
    folder = tmp_path_factory.mktemp("opened")
    shutil.copytree(finished.artifact("segmenter/first").path, folder / "models" / "theirs")
    content = finished.study | {
        "segmenters": {
            "ours": {"cohort": "discs", "model": "models/theirs"},
            "new": {"cohort": "discs", "steps": 2, "batch_size": 4, "network": TINY_SEGFORMER},
        },
        "steering": [{"segmenter": "ours", "cohort": "discs", "label": "tumour"}],
        "failures": [{"segmenter": "ours", "cohort": "discs", "worst": 2}],
        "alignment": [],
        "dictionaries": {"k": 2, "expansion": 1, "steps": 6, "batch_size": 64},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    settings = StudySettings.read(folder / "study.yaml")
    run = run_study(settings, folder / "run")
    write_report(run)
    return settings, run


def test_another_run_s_segmenter_goes_through_a_study(finished, opened):
    settings, run = opened
    theirs = Segmenter.read(finished.artifact("segmenter/first"))
    assert settings.segmenters["ours"].architecture == theirs.architecture["name"]
    assert Segmenter.read(run.artifact("segmenter/ours")).hash == theirs.hash
    columns = ("case", "label", "tp", "predicted", "truth")
    before, now = (one.table("scores").select(columns) for one in (
        finished.artifact("scores/first@discs"), run.artifact("scores/ours@discs")
    ))  # fmt: skip
    assert now.equals(before)
    assert {"alignment/ours~new", "dictionary/ours", "atlas/ours", "effects/ours"} <= set(run.stages())
    page = (run.path / "report.html").read_text()
    assert "opened from theirs, its own cohort is discs" in page
    assert "whose test patients it may have been trained on" not in page  # it was trained on the same slices


def test_a_study_that_opens_a_model_is_read_again_from_its_run(opened):
    settings, run = opened
    own = StudySettings.parse(run.study, "run.json").segmenters["ours"]
    assert (own.model, own.architecture) == (settings.segmenters["ours"].model, "segformer-b0")
    assert "steps" not in run.study["segmenters"]["ours"] and "model" not in run.study["segmenters"]["new"]


def test_slices_of_another_preprocessing_are_refused(finished, opened):
    settings, _ = opened
    slices = SliceSet.read(finished.artifact("slices/discs"))
    model = settings.segmenters["ours"].model
    other = replace(slices, preprocessing=replace(slices.preprocessing, clip_percentiles=(5.0, 95.0)))
    with pytest.raises(ValueError, match=r"clip_percentiles is \(5.0, 95.0\), not \(0.5, 99.5\)"):
        opened_segmenter(model, "segformer-b0", other)
    with pytest.raises(ValueError, match="is a segformer-b0, the study says unet; give architecture: segformer-b0"):
        opened_segmenter(model, "unet", slices)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"steps": 3}, "nothing is trained, and steps would change nothing"),
        (
            {"architecture": "unet"},
            "segmenters.ours.architecture: 'unet', that of .* is 'segformer-b0'; leave out architecture",
        ),
        ({"model": "nowhere"}, "segmenters.ours.model: .*nowhere"),
    ],
)
def test_contradictions_with_the_model_are_refused(opened, tmp_path, own, message):
    settings, _ = opened
    content = settings.model_dump(mode="json")
    ours = {"cohort": "discs", "model": str(settings.segmenters["ours"].model), **own}
    content |= {"segmenters": {"ours": ours}, "steering": [], "failures": []}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SettingsError, match=message):
        StudySettings.read(tmp_path / "study.yaml")


def test_where_an_opened_model_started_nobody_knows():
    new = SegmenterSettings(cohort="a")
    ours, again, other = (SegmenterSettings(cohort="a", model=Path(name)) for name in ("x", "x", "y"))
    named = {"new": new, "ours": ours, "again": again, "other": other}
    assert not same_start(named, "ours", "new")
    assert not same_start(named, "ours", "other")
    assert same_start(named, "ours", "again")
