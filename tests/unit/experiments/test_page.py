import json

import polars as pl
import pytest

from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, Published
from seglens.experiments.page import write_reproduction
from seglens.experiments.reproduction import FILE, Outcome
from seglens.runs import Run, Stage


@pytest.fixture
def page_of(tmp_path):
    """The page of experiments whose outcomes are given."""

    def write(outcomes, experiments):
        from seglens.artifacts import new_artifact

        run = Run(tmp_path)
        with run.writing({}):
            for name, outcome in outcomes.items():
                stage = Stage(f"experiment/{name}", "experiment", {})

                def make(path, checkpoint, outcome=outcome, stage=stage):
                    with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
                        outcome.write(draft)

                run.finish(stage, make)
            (tmp_path / FILE).write_text(json.dumps({"trained on": {}}))
        return write_reproduction(run, experiments=experiments).read_text()

    return write


def never(study, progress):
    raise NotApplicableError("not run here")


LONG = pl.DataFrame({"alpha": range(300), "dice": [0.5] * 300})
FOUND = ExperimentResult(
    {"short": pl.DataFrame({"cohort": ["<b>adult</b>"], "share": [0.25]}), "long": LONG},
    {"share, adult": 0.25, "gain": -0.125},
    ["What was done."],
    ["Cohort x: no labels."],
)
EXPERIMENTS = {
    "one": Experiment(
        "one",
        "Shares",
        "Table 1",
        never,
        figures=[
            Figure("bars", "short", "Shares by cohort", x="cohort", y="share"),
            Figure("bars", "gone", "x", "x", "y"),
        ],
        published={"share, adult": Published(0.589, "Table 1; no floor")},
    ),
    "two": Experiment("two", "Pairs", "beyond the paper", never),
}


def test_the_page_has_words_tables_figures_and_what_was_left_out(page_of):
    page = page_of({"one": Outcome(FOUND)}, EXPERIMENTS)
    for text in ("What was done.", "Cohort x: no labels.", "Shares by cohort", "Table 1; no floor", "0.589", "0.250"):
        assert text in page
    assert "−0.125" in page
    assert "<b>adult</b>" not in page
    assert "&lt;b&gt;adult&lt;/b&gt;" in page
    assert "Table: long (300 rows)" in page  # folded
    assert "The first 200 of 300 rows; long.parquet holds all." in page
    assert page.count("<section") == 2  # the overview, and what this run holds


def test_what_cannot_be_carried_is_said_twice_and_not_drawn(page_of):
    page = page_of({"two": Outcome(None, "needs two cohorts; the study has one")}, EXPERIMENTS)
    assert page.count("needs two cohorts; the study has one") == 2
    assert "cannot carry" in page


def test_an_empty_run_has_a_page_too(page_of):
    assert "No experiment was run." in page_of({}, EXPERIMENTS)
