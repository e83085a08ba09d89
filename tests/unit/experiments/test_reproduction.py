import json
import shutil

import polars as pl
import pytest

from seglens.experiments import EXPERIMENTS, Experiment, ExperimentResult, NotApplicableError, part
from seglens.experiments.experiment import Published
from seglens.experiments.reproduction import finished, outcome_of, reproduce

TABLE = pl.DataFrame({"cohort": ["adult", "ssa"], "share": [0.25, None]})


class Counting:
    """An experiment that counts how often it, and its expensive piece, are computed."""

    def __init__(self):
        self.runs = self.parts = 0

    def __call__(self, study, progress):
        self.runs += 1

        def make(draft, progress):
            self.parts += 1
            draft.save_document("figure", 3)

        piece = part(study, "piece/adult", "piece", {"seed": 1}, make)
        headline = {"pieces": float(piece.document("figure")), "undefined": float("nan")}
        return ExperimentResult({"shares": TABLE}, headline, ["Said."], ["Nothing."])


def cannot(study, progress):
    raise NotApplicableError("needs two cohorts; the study has one")


def breaks(study, progress):
    raise ZeroDivisionError("a bug")


def counting_experiments(counting, **others):
    published = {"pieces": Published(4.0, "Table 9")}
    first = Experiment("counted", "Counted", "Table 9", counting, published=published)
    return {"counted": first} | {name: Experiment(name, name, "beyond the paper", run) for name, run in others.items()}


def test_a_finding_comes_back_from_disk_and_is_not_computed_twice(tiny_settings, tmp_path):
    counting = Counting()
    experiments = counting_experiments(counting)
    run = reproduce(tiny_settings, tmp_path, experiments=experiments).run
    found = outcome_of(run, "counted").finding
    assert found is not None
    assert found.tables["shares"].equals(TABLE)
    assert found.headline == {"pieces": 3.0, "undefined": None}
    assert (list(found.paragraphs), list(found.left_out)) == (["Said."], ["Nothing."])

    entry = json.loads((tmp_path / "reproduction.json").read_text())["experiments"]["counted"]
    assert entry["headline"]["pieces"] == 3.0
    assert entry["published"]["pieces"] == {"value": 4.0, "where": "Table 9"}

    reproduce(tiny_settings, tmp_path, experiments=experiments)
    assert (counting.runs, counting.parts) == (1, 1)


def test_a_new_version_is_computed_again_and_finds_its_expensive_piece(tiny_settings, tmp_path):
    counting = Counting()
    reproduce(tiny_settings, tmp_path, experiments=counting_experiments(counting))
    newer = {"counted": Experiment("counted", "Counted", "Table 9", counting, version=2)}
    reproduce(tiny_settings, tmp_path, experiments=newer)
    assert (counting.runs, counting.parts) == (2, 1)


def test_what_a_study_cannot_carry_is_said(tiny_settings, tmp_path):
    experiments = counting_experiments(Counting(), pairs=cannot)
    done = reproduce(tiny_settings, tmp_path, experiments=experiments)
    assert not done.faults
    assert outcome_of(done.run, "pairs").not_applicable == "needs two cohorts; the study has one"
    document = json.loads((tmp_path / "reproduction.json").read_text())
    assert document["experiments"]["pairs"]["not_applicable"] == "needs two cohorts; the study has one"


def test_one_broken_experiment_does_not_cost_the_others(tiny_settings, tmp_path):
    counted = counting_experiments(Counting())
    experiments = {"broken": Experiment("broken", "Broken", "Table 0", breaks), **counted}
    done = reproduce(tiny_settings, tmp_path, experiments=experiments)
    assert list(done.faults) == ["broken"]
    assert finished(done.run, experiments) == ["counted"]
    assert json.loads((tmp_path / "reproduction.json").read_text())["faults"] == {"broken": "ZeroDivisionError: a bug"}


def test_one_experiment_alone_and_the_next_beside_it(tiny_settings, tmp_path):
    experiments = counting_experiments(Counting(), pairs=cannot)
    assert finished(reproduce(tiny_settings, tmp_path, ["pairs"], experiments=experiments).run, experiments) == [
        "pairs"
    ]
    again = reproduce(tiny_settings, tmp_path, ["counted"], experiments=experiments)
    assert finished(again.run, experiments) == ["counted", "pairs"]


def test_a_result_that_was_removed_is_not_listed(tiny_settings, tmp_path):
    experiments = counting_experiments(Counting(), pairs=cannot)
    run = reproduce(tiny_settings, tmp_path, experiments=experiments).run
    shutil.rmtree(run.artifact("experiment/pairs").path)
    assert finished(reproduce(tiny_settings, tmp_path, ["counted"], experiments=experiments).run, experiments) == [
        "counted"
    ]


def test_an_unknown_name_is_refused_before_any_work(tiny_settings, tmp_path):
    with pytest.raises(ValueError, match=r"no experiment tabel1; there are counted"):
        reproduce(tiny_settings, tmp_path / "out", ["tabel1"], experiments=counting_experiments(Counting()))
    assert not (tmp_path / "out").exists()


def test_every_experiment_is_named_as_it_is_listed():
    assert all(name == experiment.name for name, experiment in EXPERIMENTS.items())
    assert all(experiment.title and experiment.paper for experiment in EXPERIMENTS.values())
