"""A study file is checked whole, before any work."""

import pytest
import yaml

from seglens.studies.demo import demo_settings
from seglens.studies.example import EXAMPLE, PAPER
from seglens.studies.settings import SettingsError, StudySettings

MINIMAL = {
    "sequences": ["T1c"],
    "cohorts": {"adult": {"phantom": {"population": "adult"}}},
    "segmenters": {"adult": {"cohort": "adult"}},
}


def test_the_printed_example_is_a_study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(EXAMPLE)
    settings = StudySettings.read(path)
    assert list(settings.cohorts) == ["adult", "pediatric"]
    assert settings.cohorts["adult"].sources[0].path == tmp_path / "data" / "BraTS2021"
    assert settings.segmenters["pediatric"].init_from == "adult"


def test_the_paper_s_study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(PAPER)
    settings = StudySettings.read(path)
    assert list(settings.cohorts) == ["adult", "pediatric", "ssa", "healthy"]
    assert {own.architecture for own in settings.segmenters.values()} == {"segformer-b4", "unet"}
    assert all(own.init_from is None for own in settings.segmenters.values())
    assert (settings.size, settings.dictionaries.k, settings.dictionaries.expansion) == (256, 32, 16)
    (ixi,) = settings.cohorts["healthy"].sources
    assert len(ixi.labels) == 9
    assert set(ixi.mask_values.values()) == set(ixi.labels)
    assert StudySettings.parse(settings.model_dump(mode="json"), "run.json") == settings


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"steps": 10, "epochs": 2}, "steps and epochs are both given; give one"),
        ({"network": {"widths": [8]}}, "segformer-b0 has no settings widths; it has hidden_sizes"),
        ({"architecture": "unet", "encoder_learning_rate": 1e-4}, "unet has no encoder of its own rate"),
        (
            {"init_from": "adult", "pretrained": "nvidia/mit-b0@" + 40 * "a"},
            "pretrained is given, but all weights come from init_from",
        ),
        ({"init_from": "adult", "network": {"depths": [1, 1, 1, 1]}}, "the whole network comes from init_from"),
    ],
)
def test_settings_of_a_segmenter_that_contradict_each_other(own, message):
    content = {**MINIMAL, "segmenters": {**MINIMAL["segmenters"], "other": {"cohort": "adult", **own}}}
    with pytest.raises(SettingsError, match=message):
        StudySettings.parse(content, "study.yaml")


def test_a_start_of_another_architecture_is_refused():
    content = {**MINIMAL, "segmenters": {"first": {"cohort": "adult", "architecture": "unet"}}}
    content["segmenters"]["second"] = {"cohort": "adult", "init_from": "first"}
    with pytest.raises(SettingsError, match="it goes on from 'first', a unet; give architecture: unet"):
        StudySettings.parse(content, "study.yaml")


def test_every_fault_is_named_with_its_place(tmp_path):
    content = {**MINIMAL, "sizes": 3, "size": 100, "dictionaries": {"k": 0}}
    with pytest.raises(SettingsError) as caught:
        StudySettings.parse(content, "study.yaml")
    text = str(caught.value)
    assert "study.yaml cannot be used" in text
    assert "sizes: unknown; did you mean 'size'? legal are name, seed, sequences" in text
    assert "size: Input should be a multiple of 32" in text
    assert "dictionaries.k: Value error, 0 is neither a whole number from 1 on nor auto" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmenters": {"a": {"cohort": "adlut"}}}, "segmenters.a.cohort: no cohort 'adlut'"),
        ({"segmenters": {"a": {"cohort": "adult", "init_from": "b"}}}, "init_from: no segmenter 'b'"),
        ({"segmenters": {"a": {"cohort": "adult", "init_from": "a"}}}, "leads back to 'a'"),
        ({"steering": [{"segmenter": "x", "cohort": "y", "label": "edema"}]}, r"steering\[0\].segmenter: no segm"),
        ({"failures": [{"segmenter": "adult", "cohort": "y"}]}, r"failures\[0\].cohort: no cohort 'y'"),
        ({"cohorts": {"adult": {}}}, "give either sources or phantom"),
        (
            {"failures": [{"segmenter": "adult", "cohort": "adult", "worst": worst} for worst in (30, 60)]},
            r"failures\[1\]: its results would be called adult-adult, as those of failures\[0\]; ask for it once",
        ),
    ],
)
def test_names_must_exist(change, message):
    with pytest.raises(SettingsError, match=message):
        StudySettings.parse({**MINIMAL, **change}, "study.yaml")


def test_a_label_that_the_cohort_lacks_is_refused_with_the_nearest():
    asked = {"segmenter": "adult", "cohort": "adult", "label": "edma"}
    settings = StudySettings.parse({**MINIMAL, "steering": [asked]}, "study.yaml")
    with pytest.raises(
        ValueError, match=r"steering\[0\].label: adult has no label 'edma'; did you mean 'edema'\? there"
    ):
        settings.check_steered("adult", ["background", "edema"])
    settings.check_steered("adult", ["background", "edma"])
    settings.check_steered("another", ["background"])


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        StudySettings.read(tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(SettingsError, match="is not YAML"):
        StudySettings.read(tmp_path / "bad.yaml")


def test_yaml_cannot_name_a_class(tmp_path):
    (tmp_path / "evil.yaml").write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SettingsError, match="is not YAML"):
        StudySettings.read(tmp_path / "evil.yaml")


@pytest.mark.parametrize("quick", [False, True])
def test_demo_settings_survive_a_file(quick):
    settings = demo_settings(5, quick=quick)
    again = StudySettings.parse(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json"))), "demo")
    assert again == settings
    assert again.seed == 5


@pytest.mark.parametrize("name", ["a/b", "a~b", "a@b", "a\nb", "", "..", "a" * 61, "a?b", "a%2fb"])
def test_names_that_would_be_taken_for_something_else(name):
    """Names stand in those of stages (``alignment/a~b``), of folders, and in the explorer's addresses."""
    content = {
        "sequences": ["T1c"],
        "cohorts": {name: {"phantom": {"population": "adult"}}},
        "segmenters": {name: {"cohort": name}},
    }
    with pytest.raises(SettingsError, match=r"cohorts: .*take up to 60 letters[^$]*segmenters: "):
        StudySettings.parse(content, "study.yaml")


def test_names_may_have_spaces_and_letters_of_any_script():
    content = {
        "sequences": ["T1c"],
        "cohorts": {"Köln 2021.1": {"phantom": {"population": "adult"}}},
        "segmenters": {"a-b_c+d": {"cohort": "Köln 2021.1"}},
    }
    assert list(StudySettings.parse(content, "study.yaml").segmenters) == ["a-b_c+d"]
