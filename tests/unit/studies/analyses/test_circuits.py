"""The analysis behind `seglens circuits`, on a written network that leans on a shortcut, and what the report says."""

import polars as pl
import pytest
import torch
from tests.unit.circuits.planted import TWO, marked_slices, shortcut

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.blocks import Chart, Fold, Table
from seglens.reports.sections.circuits import circuits_section
from seglens.runs import Run
from seglens.studies.analyses.circuits import MAX_SLICES, reads, sentences, shown, units
from seglens.studies.demo import demo_settings
from seglens.studies.stages import Study
from seglens.studies.study import run_stages


def cohort(right, *, empty=False):
    """Twelve patients, half of them seen; the mark names the lesion's side in a share ``right``."""
    slices = marked_slices(12, right)
    images = slices.images()[:, :, 0] * (0 if empty else 1)
    splits = pl.Series("split", ["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    index = slices.index.select("case", "position").with_columns(splits)
    masks, brains = slices.masks()[:, 0], slices.brains()[:, 0]
    return SliceSet.from_tensors(images, masks, brains, index, name="m", sequences=["T1"], labels=slices.labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Circuits of one segmenter at home, on a cohort whose mark lies, and on one where it predicts nothing."""
    cohorts = {"adult": cohort(1.0), "pediatric": cohort(0.0), "ssa": cohort(1.0, empty=True)}
    settings = demo_settings(0)
    settings = settings.model_copy(
        update={
            "segmenters": {"adult": settings.segmenters["adult"].model_copy(update={"init_from": None})},
            "cohorts": {name: settings.cohorts[name] for name in cohorts},
            "steering": [],
            "failures": [],
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "segmenter", lambda study, name: shortcut())
        patch.setattr(Study, "slices", lambda study, name: cohorts[name])
        yield run_stages(settings, tmp_path_factory.mktemp("circuits") / "run", ["circuits"])


def test_every_cohort_is_looked_at_and_home_comes_first(run):
    assert run.stages("circuits/") == ["circuits/adult@adult", "circuits/adult@pediatric", "circuits/adult@ssa"]
    settings = demo_settings(0)
    first = dict(reversed(units(settings)))
    assert first == {name: own.cohort for name, own in settings.segmenters.items()}
    assert ("circuits", ("adult", "adult")) in reads(settings, ("adult", "ssa"))
    assert ("circuits", ("adult", "adult")) not in reads(settings, ("adult", "adult"))


def test_figures_stand_in_the_document_and_the_shift_away_from_home(run):
    home, away, nothing = (run.artifact(stage).document("circuits") for stage in run.stages("circuits/"))
    assert home["edges"] == 4 and home["patients"] == 8 and home["exact"] and "shift" not in home
    assert 0 <= away["shift"] <= 2 and 0 < away["p"] <= 1
    assert nothing["undefined"].startswith("the target is not defined on any of the 8 slices")
    edges = run.artifact("circuits/adult@adult").table("edges")
    assert edges["patient"].n_unique() == 8 and len(edges) == 8 * 4


def test_the_command_and_the_report_say_what_it_rests_on(run):
    first, _, last = sentences(run)
    assert first.startswith("soft Dice lost by an ablated edge, adult@adult: ") and "texture" in first
    assert last.startswith("adult@ssa: the target is not defined")
    section = circuits_section(run)
    cohorts = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[0].text for row in cohorts.rows] == ["adult", "pediatric", "SSA"]
    assert cohorts.rows[2][0].sub.startswith("the target is not defined")
    edges = next(block for block in section.blocks if isinstance(block, Fold)).blocks[1]
    assert edges.columns == ("Edge", "adult", "pediatric") and len(edges.rows) == 4
    chart = next(block for block in section.blocks if isinstance(block, Chart))
    assert [key.label for key in chart.keys] == ["largest scores", "distance, no gradient", "random, same stages"]
    assert chart.wide.count("<polyline") == 3


def test_a_run_without_circuits_has_no_section(tmp_path):
    assert circuits_section(Run(tmp_path / "run")) is None


def test_a_large_cohort_is_thinned(monkeypatch):
    index = pl.DataFrame({"case": [f"c{row}" for row in range(100)], "split": ["train"] * 4 + ["val"] * 96})
    pixels = torch.zeros(100, 1, 1)
    many = SliceSet.from_tensors(
        pixels[:, None], pixels.to(torch.uint8), pixels > 0, index, name="many", sequences=["T1"], labels=TWO
    )
    monkeypatch.setattr(Study, "slices", lambda study, name: many)
    rows = shown(Study.__new__(Study), "adult").index["origin"].to_list()
    assert rows == list(range(4, 100, 2)) and len(rows) == MAX_SLICES
