"""Several hookpoints a segmenter: their names, who is compared with whom, and what one hookpoint leaves as it was."""

from types import SimpleNamespace

import pytest
from tests.unit.studies.test_settings import MINIMAL

from seglens.artifacts import hash_of
from seglens.lens_names import lens_name, segmenter_of
from seglens.runs import Stage
from seglens.studies.analyses.dictionary import variant_units
from seglens.studies.demo import demo_settings
from seglens.studies.hookpoints import AUTO, aligned_pairs, alike, each_lens, hookpoint_of, hookpoints_of, lenses_of
from seglens.studies.settings import SettingsError, StudySettings
from seglens.studies.table import analysis_table


def study(**change):
    """Two SegFormers at the study's hookpoints, a third at its own, and a U-Net."""
    more = {"cohort": "adult"}
    segmenters = {"a": more, "b": more, "c": {**more, "hookpoints": ["stage3", "stage1"]}}
    segmenters |= {"u": {**more, "architecture": "unet"}}
    content = {**MINIMAL, "segmenters": segmenters, "hookpoints": ["stage2", "stage3"], **change}
    return StudySettings.parse(content, "study.yaml")


def test_the_first_hookpoint_s_lens_bears_the_segmenter_s_name():
    settings = study()
    assert [lens for (lens,) in each_lens(settings)] == ["a", "a@stage3", "b", "b@stage3", "c", "c@stage1", "u"]
    assert lenses_of(settings, "c") == ["c", "c@stage1"]
    found = {lens: hookpoint_of(settings, lens) for (lens,) in each_lens(settings)}
    assert found == {
        "a": "stage2", "a@stage3": "stage3", "b": "stage2", "b@stage3": "stage3", "c": "stage3", "c@stage1": "stage1",
        "u": AUTO,  # of the list it has none
    }  # fmt: skip
    assert {segmenter_of(lens) for lens in found} == {"a", "b", "c", "u"}
    assert lens_name("a", "stage3") == "a@stage3"


def test_one_name_is_a_list_of_one_and_auto_is_the_default():
    assert study(hookpoints="stage2").hookpoints == ("stage2",)
    assert StudySettings.parse(MINIMAL, "study.yaml").hookpoints == AUTO
    assert hookpoints_of(StudySettings.parse(MINIMAL, "study.yaml"), "adult") == (AUTO,)
    dumped = study().model_dump(mode="json")
    assert StudySettings.parse(dumped, "study.yaml") == study()


def test_alike_are_lenses_of_one_architecture_at_one_hookpoint():
    settings = study()
    assert alike(settings, "a") == ["a", "b"]
    assert alike(settings, "a@stage3") == ["a@stage3", "b@stage3", "c"] == alike(settings, "c")
    assert alike(settings, "c@stage1") == ["c@stage1"]
    assert alike(settings, "u") == ["u"]


def test_pairs_are_those_of_the_first_hookpoints_and_what_is_asked_for():
    primary = [("a", "b"), ("a", "c"), ("a", "u"), ("b", "c"), ("b", "u"), ("c", "u")]
    assert aligned_pairs(study()) == primary
    further = [("a@stage3", "b@stage3"), ("a@stage3", "c"), ("b@stage3", "c")]
    assert aligned_pairs(study(alignment=[{"hookpoint": "stage3"}])) == primary + further
    some = {"hookpoint": "stage3", "segmenters": ["a", "b"]}
    assert aligned_pairs(study(alignment=[some, some])) == primary + further[:1]


def test_only_what_is_compared_in_one_space_has_variants():
    def bounded(settings):
        return list(dict.fromkeys(lens for lens, _ in variant_units(settings)))

    assert bounded(study()) == ["a", "b"]
    assert bounded(study(alignment=[{"hookpoint": "stage3"}])) == ["a", "a@stage3", "b", "b@stage3", "c"]
    assert bounded(study(dictionaries={"controls": False})) == []


def test_entries_work_at_the_hookpoint_that_they_name():
    entry = {"segmenter": "a", "cohort": "adult", "label": "edema"}
    steering = [entry, {**entry, "hookpoint": "stage3"}]
    failures = [{"segmenter": "c", "cohort": "adult", "hookpoint": "stage3"}]
    settings, table = study(steering=steering, failures=failures), analysis_table()
    names = [table[row].stage(unit) for row in ("steering", "failures") for unit in table[row].units(settings)]
    assert names == ["steering/a-adult-edema", "steering/a@stage3-adult-edema", "failures/c-adult"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hookpoints": []}, r"\[\] is neither auto nor one or several different hookpoints, such as \[stage2, stage3"),
        ({"hookpoints": ["auto", "stage2"]}, "is neither auto nor one or several different"),
        ({"hookpoints": ["stage2", "stage2"]}, "is neither auto nor one or several different"),
        ({"hookpoints": ["stage2", 3]}, "is neither auto nor one or several different"),
        ({"hookpoints": 3}, "3 is neither auto nor"),
        ({"hookpoint": "stage2"}, "hookpoint: unknown; did you mean 'hookpoints'"),
        (
            {"hookpoints": ["stage2", "satge3"]},
            r"hookpoint 'satge3' is in none of the study's architectures; did you mean 'stage3'.*give auto or one of "
            "stage1, stage2",
        ),
        (
            {"segmenters": {"a": {"cohort": "adult", "hookpoints": "stage_3"}}},
            r"segmenters.a.hookpoints: segformer-b0 has no hookpoint 'stage_3'; did you mean 'stage3'.*give auto",
        ),
        (
            {"steering": [{"segmenter": "a", "cohort": "adult", "label": "edema", "hookpoint": "stage4"}]},
            r"steering\[0\].hookpoint: a is not opened at 'stage4' but at stage2, stage3; .*name it under hookpoints",
        ),
        (
            {"failures": [{"segmenter": "u", "cohort": "adult", "hookpoint": "stage2"}]},
            r"failures\[0\].hookpoint: u is not opened at 'stage2' but at auto; ",
        ),
        (
            {"alignment": [{"hookpoint": "stage1"}]},
            r"alignment\[0\].hookpoint: c is opened at 'stage1', and a pair takes two; .*the study's hookpoints are",
        ),
        ({"alignment": [{"hookpoint": "stage3", "segmenters": ["x"]}]}, r"alignment\[0\].segmenters: no segmenter 'x'"),
        (
            {"failures": [{"segmenter": "a", "cohort": "adult", "hookpoint": one} for one in (None, "stage2")]},
            r"failures\[1\]: its results would be called a-adult, as those of failures\[0\]",
        ),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(change, message):
    with pytest.raises(SettingsError, match=message):
        study(**change)


class Hashes:
    """Stands for slices, segmenter, store and dictionary alike: whatever is read of it is named after it."""

    def __init__(self, name):
        self.hash, self.labels = name, {0: "background", 1: "edema"}

    def split(self, name):
        return Hashes(f"{self.hash} {name}")


def folders(settings):
    """Folders of all stages behind the slices, as a study with made-up artifacts would name them."""
    study = SimpleNamespace(
        settings=settings,
        slices=lambda cohort: Hashes(f"slices {cohort}"),
        own_slices=lambda name, split: Hashes(f"own slices {name} {split}"),
        unseen_slices=lambda name: Hashes(f"unseen {name}"),
        segmenter=lambda name: Hashes(f"segmenter {name}"),
        opened=lambda name: None,
        hookpoint=lambda lens: "stage3",
        store=lambda lens: Hashes(f"store {lens}"),
        dictionary=lambda lens, variant="plain": Hashes(f"dictionary {lens} {variant}"),
        dictionary_settings=lambda lens: settings.dictionaries.model_copy(update={"k": 4, "expansion": 16}),
    )
    return [
        Stage(row.stage(unit), row.kind or row.name, row.inputs(study, *unit)).folder
        for row in analysis_table().values()
        if row.name not in ("phantom", "check", "slices", "volume_scores")
        for unit in row.units(settings)
    ]


@pytest.mark.parametrize(("quick", "n", "known"), [(True, 30, "d11db4f9ea24acf5"), (False, 97, "f861b692ba83a6ab")])
def test_a_study_with_one_hookpoint_has_the_stages_that_it_always_had(quick, n, known, monkeypatch):
    """Names, kinds and inputs: the literal is that of one hookpoint, and changes where what a stage writes changes."""
    monkeypatch.setattr("seglens.studies.compared.probe_of", lambda slices: slices)
    found = folders(demo_settings(0, quick=quick))
    assert (len(found), hash_of(found)[:16]) == (n, known)
    settings = demo_settings(0, quick=quick).model_copy(update={"hookpoints": ("stage3",)})
    assert folders(settings) == found
    several = folders(settings.model_copy(update={"hookpoints": ("stage3", "stage2")}))
    assert [name for name in several if "@stage2" not in name] == found
    assert len(several) > len(found)


def test_networks_of_other_widths_are_not_of_one_space():
    narrow = {"hidden_sizes": [8, 16, 24, 32]}
    content = {
        "sequences": ["T1c"],
        "cohorts": {"adult": {"phantom": {"population": "adult"}}},
        "hookpoints": "stage2",
        "segmenters": {
            "wide": {"cohort": "adult"},
            "narrow": {"cohort": "adult", "network": narrow},
            "next": {"cohort": "adult", "init_from": "narrow"},
            "spelt": {"cohort": "adult", "network": {"hidden_sizes": [32, 64, 160, 256]}},
        },
    }
    settings = StudySettings.parse(content, "study.yaml")
    assert alike(settings, "wide") == ["wide", "spelt"]
    assert alike(settings, "narrow") == ["narrow", "next"]
