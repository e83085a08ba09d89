"""The quick demo: every stage, stable keys, reuse, and equal hashes after kills."""

import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from html.parser import HTMLParser

import pytest
import yaml
from tests.crash import demo, finish, kill, left_behind

from seglens import cli
from seglens.runs import Run
from seglens.runtime.progress import silent
from seglens.studies.demo import demo_settings
from seglens.studies.study import run_stages, run_study
from seglens.summaries import summary_of

CONVENTIONS = {"dice_pooled", "dice_sampled", "dice_slice_present", "dice_slice_empty1"}
SCORES = CONVENTIONS | {"precision", "recall"}


def test_every_stage_left_an_artifact(quick_run):
    kinds = {stage.split("/")[0] for stage in quick_run.stages()}
    assert kinds == {
        *(
            "phantom",
            "check",
            "slices",
            "segmenter",
            "scores",
            "volume_scores",
            "effects",
            "store",
            "dictionary",
            "quality",
            "atlas",
        ),
        *("variant", "alignment", "steering", "failures"),
    }
    assert not list((quick_run.path / "artifacts").glob(".*"))
    assert not list((quick_run.path / "checkpoints").iterdir())


def test_summary_has_its_stable_keys(quick_run):
    summary = json.loads((quick_run.path / "summary.json").read_text())
    assert summary_of(quick_run).seed == summary["seed"]
    for key in (
        "cohorts",
        "segmenters",
        "volume_scores",
        "dictionaries",
        "alignments",
        "steering",
        "failures",
        "timings",
    ):
        assert summary[key], key
    assert summary["peak_rss_mib"] > 100
    for segmenter in summary["segmenters"]:
        assert {"name", "architecture", "trained_on", "seconds", "scores"} <= set(segmenter)
        for scores in segmenter["scores"].values():
            assert SCORES | {"n"} <= set(scores)
            assert set(scores["dice_pooled"]) == {"necrotic_core", "edema", "enhancing", "foreground"}
    for dictionary in summary["dictionaries"]:
        figures = ("explained_variance", "l0", "dead_share", "dice_kept", "control_explained_variance")
        assert all(dictionary[figure] is None or math.isfinite(dictionary[figure]) for figure in figures)
    for alignment in summary["alignments"]:
        assert {"source", "target", "shared", "floor", "ceiling", "functional"} <= set(alignment)
        assert 0 <= alignment["floor"] <= 1
    for entry in summary["steering"]:
        assert {"source", "target", "class", "policy", "edit", "alpha", "before", "after", "baselines"} <= set(entry)
        assert set(entry["before"]) >= SCORES
        assert {"logit_bias", "drop_class", "predict_nothing", "random_latents"} <= set(entry["baselines"])
    assert {entry["policy"] for entry in summary["steering"]} == {"oracle", "held_out"}
    for entry in summary["failures"]:
        assert {"policy", "n", "recovered", "random_recovered"} <= set(entry)
        assert (entry["segmenter"], entry["cohort"]) == ("adult", "adult")


def test_selection_and_evaluation_patients_are_disjoint(quick_run):
    from seglens.cohorts.slice_set import SliceSet

    for name in ("adult", "pediatric"):
        index = SliceSet.read(quick_run.artifact(f"slices/{name}")).index
        patients = {split: set(index.filter(index["split"] == split)["patient"]) for split in ("train", "val", "test")}
        assert all(patients.values())
        assert not patients["train"] & patients["val"]
        assert not patients["train"] & patients["test"]
        assert not patients["val"] & patients["test"]


def test_the_report_is_one_self_contained_page(quick_run):
    class References(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name in ("src", "href") and value]

    text = (quick_run.path / "report.html").read_text()
    parser = References()
    parser.found = []
    parser.feed(text)
    assert parser.found
    assert [link for link in parser.found if not link.startswith(("data:", "#"))] == []
    assert len(text) < 15e6
    assert (quick_run.path / "shared.svg").read_text().startswith("<svg")


def test_a_second_run_computes_nothing(quick_run):
    announced = []

    def announce(stage):
        announced.append(stage)
        return nullcontext(silent)

    before = quick_run.hashes
    again = run_study(demo_settings(seed=0, quick=True), quick_run.path, announce=announce)
    assert announced == []
    assert again.hashes == before


def test_a_stage_verb_takes_what_is_finished(quick_run):
    run = run_stages(demo_settings(seed=0, quick=True), quick_run.path, ("atlas",), ("adult",))
    assert run.hashes == quick_run.hashes
    with pytest.raises(ValueError, match="there is none for nobody; the study has adult, pediatric"):
        run_stages(demo_settings(seed=0, quick=True), quick_run.path, ("atlas",), ("nobody",))


def test_every_stage_is_a_verb(quick_run, tmp_path, monkeypatch, capsys):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(demo_settings(seed=0, quick=True).model_dump(mode="json")))
    before = quick_run.hashes
    verbs = [[verb, str(study), "adult"] for verb in ("train", "extract", "fit", "describe")]
    verbs += [[verb, str(study)] for verb in ("diff", "steer", "run")]
    for verb in verbs:
        monkeypatch.setattr(sys, "argv", ["seglens", *verb, "--out", str(quick_run.path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == cli.DONE, verb
    shown = capsys.readouterr().out
    assert "mean ablation, adult: stage1 " in shown
    assert shown.rstrip().endswith("report.html")
    assert Run(quick_run.path).hashes == before


@pytest.mark.processes
def test_killed_and_run_again_it_leaves_the_same(quick_run, tmp_path):
    for moment in (6.0, 12.0, 20.0):
        kill(demo(), tmp_path / "run", moment)
    finish(demo(), tmp_path / "run")
    assert left_behind(tmp_path / "run") == (quick_run.hashes, [])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["study"] == "phantom cohorts, quick"


@pytest.mark.processes
def test_report_verb_writes_the_page_again(quick_run):
    page = quick_run.path / "report.html"
    page.unlink()
    command = [sys.executable, "-m", "seglens.cli", "report", str(quick_run.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert page.is_file()
