"""A cohort without masks in a study: what needs none is made of it, what needs them is left out or refused."""

import json

import polars as pl
import pytest
from tests.pictures import discs, study_of_pictures

from seglens.activations.store import ActivationStore
from seglens.cohorts.slice_set import SliceSet
from seglens.studies.report import write_report
from seglens.studies.settings import SettingsError, StudySettings
from seglens.studies.study import run_study

HERE = "http://127.0.0.1:8000"
FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def content(finished, tmp_path_factory):
    """A study of another run's segmenter at home and at a place whose masks are broken files."""
    folder = tmp_path_factory.mktemp("bare")
    there = study_of_pictures(folder, "there", discs(7), patients=8, pictures=3, fractions=FRACTIONS)
    for mask in folder.glob("*_mask.png"):
        mask.write_bytes(b"nobody reads it")
    theirs = str(finished.artifact("segmenter/first").path)
    return finished.study | {
        "cohorts": {
            "discs": finished.study["cohorts"]["discs"],
            "there": there["cohorts"]["there"] | {"labelled": False},
        },
        "segmenters": {
            "home": {"cohort": "discs", "model": theirs, "architecture": "segformer-b0"},
            "away": {"cohort": "there", "model": theirs, "architecture": "segformer-b0"},
        },
        "hookpoints": ["stage1"],
        "steering": [],
        "failures": [],
        "alignment": [],
        "dictionaries": {"k": 2, "expansion": 1, "steps": 6, "batch_size": 64},
    }


@pytest.fixture(scope="module")
def run(content, tmp_path_factory):
    run = run_study(StudySettings.parse(content, "the test"), tmp_path_factory.mktemp("run"))
    write_report(run)
    return run


def test_what_needs_no_mask_is_made_and_what_needs_masks_is_left_out(run):
    made = set(run.stages())
    assert {
        "check/there",
        "slices/there",
        "segmenter/away",
        "store/away",
        "dictionary/away",
        "alignment/home~away",
    } <= made
    assert {stage for stage in made if stage.startswith("scores/")} == {"scores/home@discs", "scores/away@discs"}
    assert {"atlas/home", "quality/home", "effects/home"} <= made
    assert not {"atlas/away", "quality/away", "effects/away"} & made
    slices = SliceSet.read(run.artifact("slices/there"))
    assert not slices.labelled and len(slices) == 24
    store = ActivationStore.read(run.artifact("store/away"))
    assert store.n_slices == slices.index.filter(pl.col("split") == "train").height


def test_the_summary_and_the_report_say_that_nothing_is_scored_there(run):
    summary = json.loads((run.path / "summary.json").read_text())
    there = next(one for one in summary["cohorts"] if one["name"] == "there")
    assert {split["slices_without_label"] for split in there["splits"].values()} == {None}
    page = (run.path / "report.html").read_text()
    assert "slices without masks, " in page and "The cohort has no masks: nothing is scored on it." in page


def test_the_explorer_shows_predictions_there_and_no_dice(run):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from seglens.explorer.access import Guard
    from seglens.explorer.app import create_app

    guard = Guard(create_app(run.path))
    with TestClient(guard, base_url=HERE, headers={"origin": HERE}) as client:
        client.get(f"/?token={guard.token}")
        at_home, there = (about_of(client.get(f"/api/cohorts/{name}/slices/0")) for name in ("discs", "there"))
        assert at_home["labelled"] and not there["labelled"]
        assert {one["dice"] for one in client.get("/api/cohorts/there?segmenter=home").json()["slices"]} == {None}
        said = about_of(client.get("/api/segmenters/home/slices/there/0"))["classes"]
        assert [(one["true"], one["dice"]) for one in said] == [(None, None)] and said[0]["said"] >= 0
        wanted = {"cohort": "there", "row": 0, "edits": []}
        steered = about_of(client.post("/api/segmenters/home/steer", json=wanted))
        assert steered["changed"] == 0 and steered["after"] == said


def about_of(answer):
    assert answer.status_code == 200, answer.text
    length = int.from_bytes(answer.content[:8], "little")
    return json.loads(json.loads(answer.content[8 : 8 + length])["__metadata__"]["about"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"segmenters": {"new": {"cohort": "there"}}},
            r"segmenters.new.cohort: there has no masks \(labelled: false\) to be trained on; name a labelled",
        ),
        (
            {"steering": [{"segmenter": "home", "cohort": "there", "label": "tumour"}]},
            r"steering\[0\].cohort: there has no masks \(labelled: false\), and this is judged by them",
        ),
        (
            {"failures": [{"segmenter": "home", "cohort": "there"}]},
            r"failures\[0\].cohort: there has no masks",
        ),
    ],
)
def test_what_is_judged_by_masks_is_refused_there(content, change, message):
    with pytest.raises(SettingsError, match=message):
        StudySettings.parse(content | change, "the test")


def test_a_hookpoint_that_is_chosen_by_dice_is_refused_where_no_masks_are(content):
    alone = content | {"segmenters": {"away": content["segmenters"]["away"]}, "hookpoints": "auto"}
    with pytest.raises(SettingsError, match=r"segmenters.away.hookpoints: auto measures .* give one of stage1"):
        StudySettings.parse(alone, "the test")
    both = StudySettings.parse(content | {"hookpoints": "auto"}, "the test")  # the one at home chooses for both
    assert both.hookpoints == "auto"
