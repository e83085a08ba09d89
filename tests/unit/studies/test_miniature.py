import pytest
from tests.crash import smallest_study

from seglens.studies.demo import demo_settings
from seglens.studies.miniature import like_unit, miniature
from seglens.studies.planning import LARGE
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import StudySettings

REAL = {
    "sequences": ["flair"],
    "size": 64,
    "cohorts": {"a": {"sources": [{"path": "somewhere"}]}},
    "segmenters": {"a": {"cohort": "a", "epochs": 3, "batch_size": 2}},
    "steering": [{"segmenter": "a", "cohort": "a", "label": "whole"}],
}


def test_a_miniature_keeps_units_and_sizes_of_networks():
    settings = demo_settings()
    small = miniature(settings, LARGE, 16)
    assert small.size == settings.size and set(small.segmenters) < set(settings.segmenters)
    assert {own.phantom.subjects for own in small.cohorts.values() if own.phantom} == {LARGE.subjects}
    assert small.segmenters["adult"].steps == LARGE.segmenter_steps
    assert small.segmenters["adult"].init_from is None  # a start costs its own training only
    assert small.dictionaries.expansion == 16 and small.dictionaries.batch_size == settings.dictionaries.batch_size
    assert small.steering == settings.steering[:1]


def test_phantoms_stand_in_for_real_cohorts():
    small = miniature(StudySettings.model_validate(REAL), LARGE, None)
    assert small.cohorts["a"].phantom is not None and not small.cohorts["a"].sources
    assert small.segmenters["a"].epochs is None and small.segmenters["a"].batch_size == 2
    assert small.steering[0].label == "edema"


def test_more_sequences_than_phantoms_have_are_refused():
    with pytest.raises(ValueError, match="5 sequences"):
        miniature(StudySettings.model_validate({**REAL, "sequences": list("abcde")}), LARGE, None)


def test_a_model_that_is_opened_is_trained_in_miniature_only(tmp_path):
    settings = smallest_study(tmp_path)
    opened = settings.segmenters["first"].model_copy(update={"model": tmp_path / "model"})
    study = settings.model_copy(update={"segmenters": {"first": opened}, "steering": [], "failures": []})
    own = miniature(study, LARGE, None).segmenters["first"]
    assert own.model is None and own.network["depths"] == [1, 1, 1, 1] and own.steps == LARGE.segmenter_steps


def test_of_one_design_two_segmenters_stay_and_stand_for_the_others():
    settings = demo_settings()
    small = miniature(settings, LARGE, None)
    assert list(small.segmenters) == ["adult", "pediatric", "adult-unet"]
    assert list(small.cohorts) == ["adult", "pediatric"] and len(small.steering) == 1
    done = [("adult", "pediatric"), ("adult", "adult-unet"), ("pediatric", "adult-unet")]
    assert like_unit(settings, ("healthy", "ssa"), done) == ("adult", "pediatric")
    assert like_unit(settings, ("ssa", "adult-unet"), done)[1] == "adult-unet"
    assert like_unit(settings, ("pediatric", "adult-unet"), done) == ("pediatric", "adult-unet")
    assert like_unit(settings, ("healthy",), []) is None


def test_variants_of_one_lens_stand_for_the_same_variants_of_others():
    done = [("adult", "rotated"), ("adult", "reseeded"), ("adult-unet", "rotated")]
    assert like_unit(demo_settings(), ("ssa", "reseeded"), done) == ("adult", "reseeded")


def test_a_study_of_models_of_others_has_no_miniature(tmp_path):
    settings = StudySettings.model_validate({**REAL, "steering": []})
    plan = {"plan": {}, "n_heads": 2}
    others = SegmenterSettings(cohort="a", model=tmp_path, architecture="nnunet", network=plan)
    with pytest.raises(ValueError, match=r"a is a model of others.*seglens open"):
        miniature(settings.model_copy(update={"segmenters": {"a": others}}), LARGE, None)
