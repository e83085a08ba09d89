"""A study with two hookpoints, through every stage: one pass for both, resumed, seen in the report."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.crash import smallest_study

from seglens.activations import extraction
from seglens.dictionaries.latent_table import latent_table
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runs import Run
from seglens.studies.report import write_report
from seglens.studies.settings import AlignmentSettings, StudySettings
from seglens.studies.stages import Study
from seglens.studies.study import run_stages, run_study
from seglens.studies.table import analysis_table
from seglens.studies.untrained import untrained_segmenter
from seglens.summaries import summary_of

EVERY_LENS = ("first", "first@stage3", "second", "second@stage3")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    small = smallest_study(tmp_path_factory.mktemp("pictures"))
    failures = [entry.model_copy(update={"hookpoint": "stage3"}) for entry in small.failures]
    several = {"hookpoints": ("stage4", "stage3"), "alignment": [AlignmentSettings(hookpoint="stage3")]}
    return StudySettings.model_validate(small.model_dump() | several | {"failures": failures, "steering": []})


@pytest.fixture(scope="module")
def passes():
    """Hookpoints of every forward pass that an extraction has made."""
    made, real = [], extraction.activations_at

    def counted(segmenter, hookpoints, images):
        made.append(tuple(hookpoints))
        return real(segmenter, hookpoints, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "activations_at", counted)
        yield made


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory, passes):
    return run_study(settings, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(finished.path, tmp_path / "run"))


def test_each_hookpoint_has_its_stages(finished):
    for stage in ("store", "dictionary", "quality", "atlas"):
        assert finished.stages(f"{stage}/") == [f"{stage}/{lens}" for lens in EVERY_LENS]
    heads = {lens: finished.artifact(f"dictionary/{lens}").document("dictionary") for lens in EVERY_LENS}
    assert {lens: head["hookpoint"] for lens, head in heads.items()} == {
        "first": "stage4",
        "first@stage3": "stage3",
        "second": "stage4",
        "second@stage3": "stage3",
    }
    assert finished.stages("alignment/") == ["alignment/first~second", "alignment/first@stage3~second@stage3"]
    assert finished.stages("failures/") == ["failures/first@stage3-discs"]


def test_one_pass_over_the_training_slices_serves_both_hookpoints(finished, passes):
    together = [hookpoints for hookpoints in passes if len(hookpoints) == 2]
    assert together == [("stage4", "stage3")] * 2  # a batch for each of two segmenters
    stores = [finished.artifact(f"store/{lens}").document("activations") for lens in EVERY_LENS]
    assert [store["hookpoint"] for store in stores] == ["stage4", "stage3"] * 2


def test_the_first_hookpoint_s_stages_are_those_of_a_study_without_others(settings, finished, copied):
    """And a hookpoint that is added to a finished study changes nothing that is there."""
    (copied / "run.json").unlink()
    alone = settings.model_copy(update={"hookpoints": ("stage4",), "alignment": [], "failures": []})
    hashes = run_study(alone, copied).hashes
    assert hashes == {stage: hash_ for stage, hash_ in finished.hashes.items() if "@stage3" not in stage}
    assert (copied / "timings.json").read_text() == (finished.path / "timings.json").read_text()  # nothing was computed


def test_what_is_finished_is_not_done_again_and_what_is_lost_is(settings, finished, passes, copied):
    del passes[:]
    assert run_study(settings, copied).hashes == finished.hashes
    assert (copied / "timings.json").read_text() == (finished.path / "timings.json").read_text()
    assert passes == []

    for stage in ("store/first@stage3", "dictionary/first@stage3", "atlas/first@stage3"):
        shutil.rmtree(Run(copied).artifact(stage).path)
    assert run_stages(settings, copied, ["atlas"]).hashes == finished.hashes
    assert set(passes) == {("stage3",)}  # the other is there


def test_names_choose_one_lens_or_all_of_a_segmenter(settings, copied):
    def told(names):
        (copied / "run.json").unlink(missing_ok=True)
        return run_stages(settings, copied, ["atlas"], names).stages("atlas/")

    assert told(["first"]) == ["atlas/first", "atlas/first@stage3"]
    assert told(["first@stage3"]) == ["atlas/first@stage3"]
    with pytest.raises(ValueError, match=r"there is none for first@stage2; did you mean 'first@stage3'"):
        run_stages(settings, copied, ["atlas"], ["first@stage2"])


def test_all_lenses_of_a_segmenter_make_one_table(settings, finished):
    study = Study(settings, finished, analysis_table())
    with finished.writing(settings.model_dump(mode="json")):
        lenses, slices = study.lenses("second"), study.slices("discs").split("test")
    assert [lens.hookpoint for lens in lenses] == ["stage4", "stage3"]
    assert len({lens.segmenter.hash for lens in lenses}) == 1
    table = latent_table(lenses, slices, by="patient")
    n_latents = [lens.dictionary.n_latents for lens in lenses]
    assert table.latents["hookpoint"].to_list() == ["stage4"] * n_latents[0] + ["stage3"] * n_latents[1]
    assert table.values["mass"].shape == (len(table.units), sum(n_latents))


def test_summary_and_report_tell_each_hookpoint(settings, finished):
    summary = summary_of(finished)
    assert [(one.name, one.hookpoint) for one in summary.dictionaries] == [
        ("first", "stage4"),
        ("first@stage3", "stage3"),
        ("second", "stage4"),
        ("second@stage3", "stage3"),
    ]
    assert {one.name: one.hookpoints for one in summary.segmenters} == dict.fromkeys(
        ("first", "second"), ("stage4", "stage3")
    )
    assert [(one.source, one.target) for one in summary.alignments] == [
        ("first", "second"),
        ("first@stage3", "second@stage3"),
    ]
    assert summary.universal is None
    page = write_report(finished).read_text(encoding="utf-8")
    for words in (
        "opened at stage4 and stage3",
        "first at stage4: ",
        "first at stage3: ",
        "[floor–ceiling], at stage4",
        "[floor–ceiling], at stage3",
        "first@stage3 → second@stage3",
        "first@stage3 on discs",
    ):
        assert words in page, words


def test_without_a_store_each_hookpoint_gets_a_dictionary(settings, finished, tmp_path):
    live = settings.model_copy(update={"store": False})
    assert analysis_table()["store"].units(live) == []
    run = run_stages(live, tmp_path / "live", ["dictionary"], ["first"])
    assert run.stages("dictionary/") == ["dictionary/first", "dictionary/first@stage3"]
    for stage in run.stages("dictionary/"):
        ours, stored = (SparseAutoencoder.read(one.artifact(stage)).state_dict() for one in (run, finished))
        assert all(torch.equal(ours[name], stored[name]) for name in stored)


def test_each_untrained_network_is_another_draw_of_the_same_architecture(settings, finished):
    study = Study(settings, finished, analysis_table())
    with finished.writing(settings.model_dump(mode="json")):
        trained, first, second = study.segmenter("second"), *(untrained_segmenter(study, "second", n) for n in range(2))
        assert untrained_segmenter(study, "second@stage3") is first
    shapes = [{name: one.shape for name, one in of.network.state_dict().items()} for of in (trained, first, second)]
    assert shapes[0] == shapes[1] == shapes[2] and first.labels == trained.labels
    assert len({trained.hash, first.hash, second.hash}) == 3
