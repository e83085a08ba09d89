import numpy as np
import pytest
from tests.records import counted

from seglens.segmenters.class_falls import class_cells, findings_of, n_asked
from seglens.segmenters.intervals import MIN_PATIENTS, patient_interval
from seglens.segmenters.scoring import Scores

HOMES = {"m": "home"}


def verdicts(home: Scores, away: Scores) -> dict[str, str]:
    cells = class_cells({("m", "home"): home, ("m", "away"): away}, HOMES)
    assert [one.verdict for one in cells if one.cohort == "home"] == ["home"] * len({one.class_name for one in cells})
    return {one.class_name: one.verdict for one in cells if one.cohort == "away"}


def test_a_planted_collapse_is_found_and_what_keeps_is_not() -> None:
    home = counted({"core": 0.8, "edema": 0.8, "rim": 0.8})
    assert verdicts(home, counted({"core": 0.05, "edema": 0.6, "rim": 0.8})) == {
        "core": "collapsed", "edema": "falls", "rim": "no fall shown"
    }  # fmt: skip


def test_a_fall_within_the_spread_of_patients_is_no_finding() -> None:
    """The point estimates alone would call it: 0.7 to 0.5."""
    home, away = counted({"core": 0.7}, spread=0.3), counted({"core": 0.5}, spread=0.3)
    assert verdicts(home, away) == {"core": "no fall shown"}


@pytest.mark.parametrize("side", ["home", "away"])
def test_too_few_patients_are_told_on_either_side(side: str) -> None:
    patients = {"home": 8, "away": 8, side: MIN_PATIENTS - 1}
    found = verdicts(*(counted({"core": dice}, patients=patients[at]) for at, dice in (("home", 0.8), ("away", 0.0))))
    assert found == {"core": "too few patients"}
    enough = (counted({"core": dice}, patients=MIN_PATIENTS) for dice in (0.8, 0.0))
    assert verdicts(*enough) == {"core": "collapsed"}


def test_patients_without_the_class_do_not_count() -> None:
    found = verdicts(counted({"core": 0.8}), counted({"core": 0.0}, patients=9, empty=4))
    assert found == {"core": "too few patients"}


def test_what_was_not_learnt_cannot_be_lost() -> None:
    assert verdicts(counted({"core": 0.1}), counted({"core": 0.0})) == {"core": "not learnt"}


def test_without_a_home_nothing_is_compared() -> None:
    (one,) = class_cells({("m", "away"): counted({"core": 0.3})}, HOMES)
    assert one.verdict == "no home"
    assert one.at_home is None
    assert np.isnan(one.fall)


def test_of_many_cells_the_worst_is_not_called_for_being_the_worst() -> None:
    """No class differs."""
    generator, claims = np.random.default_rng(0), 0
    for _ in range(6):

        def drawn() -> Scores:
            parts = counted(dict.fromkeys("abcdef", 0.6), patients=8, slices=1).table
            noise = generator.normal(0, 120, parts.height).round().astype(int)
            tp = (parts["tp"].to_numpy() + noise).clip(0, 1000)
            return Scores(parts.with_columns(tp=tp))

        scores = {("m", "home"): drawn(), ("m", "away"): drawn()}
        cells = class_cells(scores, HOMES, draws=200)
        assert n_asked(cells) == 6
        claims += bool(findings_of(cells, "falls") or findings_of(cells, "collapsed"))
    assert claims <= 1


def test_a_cell_says_what_stands_behind_it() -> None:
    home, away = counted({"core": 0.8}), counted({"core": 0.05}, patients=7)
    one = next(cell for cell in class_cells({("m", "home"): home, ("m", "away"): away}, HOMES) if cell.cohort == "away")
    own = patient_interval(away, "none", "core")
    assert one.dice.value == own.value == pytest.approx(away.dice("core").value)
    assert 0 <= one.dice.low <= one.dice.value <= one.dice.high <= 1
    assert (one.n_patients, one.n_home_patients, one.n_present, one.n_missed) == (7, 8, 21, 0)
    assert one.recall == one.precision == pytest.approx(0.05, abs=0.02)
    assert one.fall == pytest.approx(home.dice("core").value - one.dice.value)
    gone = class_cells({("m", "home"): home, ("m", "away"): counted({"core": 0.0})}, HOMES)[-1]
    assert gone.recall == 0


def test_findings_are_sorted_by_how_far_they_fall() -> None:
    home = counted({"a": 0.8, "b": 0.8, "c": 0.6})
    cells = class_cells({("m", "home"): home, ("m", "away"): counted({"a": 0.2, "b": 0.0, "c": 0.0})}, HOMES)
    assert [one.class_name for one in findings_of(cells, "collapsed")] == ["b", "a", "c"]
