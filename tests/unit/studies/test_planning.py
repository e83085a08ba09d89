import pytest
from tests.crash import smallest_study

from seglens.studies.demo import demo_settings
from seglens.studies.planning import LARGE, Plan, StagePlan, extended, miniature, plan_study
from seglens.studies.settings import StudySettings

REAL = {
    "sequences": ["flair"],
    "size": 64,
    "cohorts": {"a": {"sources": [{"path": "somewhere"}]}},
    "segmenters": {"a": {"cohort": "a", "epochs": 3, "batch_size": 2}},
    "steering": [{"segmenter": "a", "cohort": "a", "label": "whole"}],
}


def test_a_line_through_both_measurements_is_extended():
    assert extended((10.0, 3.0), (20.0, 5.0), 100.0) == pytest.approx(21.0)


def test_a_line_neither_falls_nor_begins_below_nothing():
    assert extended((10.0, 5.0), (20.0, 3.0), 100.0) == 3.0
    assert extended((10.0, 1.0), (20.0, 4.0), 100.0) == pytest.approx(20.0)


def test_equal_work_takes_the_longer_of_both():
    assert extended((1.0, 2.0), (1.0, 3.0), 1.0) == 3.0


def test_a_miniature_keeps_units_and_sizes_of_networks():
    settings = demo_settings()
    small = miniature(settings, LARGE, 16)
    assert small.size == settings.size and list(small.segmenters) == list(settings.segmenters)
    assert {own.phantom.subjects for own in small.cohorts.values() if own.phantom} == {LARGE.subjects}
    assert small.segmenters["adult"].steps == LARGE.segmenter_steps
    assert small.segmenters["adult"].init_from == "healthy"
    assert small.dictionaries.expansion == 16 and small.dictionaries.batch_size == settings.dictionaries.batch_size
    assert [entry.label for entry in small.steering] == [entry.label for entry in settings.steering]


def test_phantoms_stand_in_for_real_cohorts():
    small = miniature(StudySettings.model_validate(REAL), LARGE, None)
    assert small.cohorts["a"].phantom is not None and not small.cohorts["a"].sources
    assert small.segmenters["a"].epochs is None and small.segmenters["a"].batch_size == 2
    assert small.steering[0].label == "edema"


def test_more_sequences_than_phantoms_have_are_refused():
    with pytest.raises(ValueError, match="5 sequences"):
        miniature(StudySettings.model_validate({**REAL, "sequences": list("abcde")}), LARGE, None)


def test_a_study_takes_its_stages_over_the_jobs_or_its_longest():
    stages = tuple(StagePlan(name, 1.0, seconds, 10.0) for name, seconds in (("x/a", 4.0), ("x/b", 1.0), ("y/a", 1.0)))
    assert Plan({}, {}, stages, 0.0, {}, 1).seconds == 6
    assert Plan({}, {}, stages, 0.0, {}, 2).seconds == 4
    assert Plan({}, {}, stages, 0.0, {}, 2).n_bytes == 30


def test_a_model_that_is_opened_is_trained_in_miniature_only(tmp_path):
    settings = smallest_study(tmp_path)
    opened = settings.segmenters["first"].model_copy(update={"model": tmp_path / "model"})
    study = settings.model_copy(update={"segmenters": {"first": opened}, "steering": [], "failures": []})
    own = miniature(study, LARGE, None).segmenters["first"]
    assert own.model is None and own.network["depths"] == [1, 1, 1, 1] and own.steps == LARGE.segmenter_steps


@pytest.mark.slow
def test_every_stage_of_a_study_of_pictures_is_planned(tmp_path):
    settings = smallest_study(tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    made = plan_study(settings, jobs=1)
    assert made.slices == {"discs": 24}  # 8 patients, 3 slices each
    assert {stage.stage for stage in made.stages} >= {
        *("check/discs", "slices/discs", "segmenter/first", "segmenter/second", "dictionary/first"),
        *("alignment/first~second", "steering/first-discs-tumour", "failures/first-discs"),
    }
    assert all(stage.seconds >= 0 and stage.n_bytes > 0 for stage in made.stages)
    assert sorted((tmp_path / "data").rglob("*")) == before and sorted(tmp_path.iterdir()) == [tmp_path / "data"]
