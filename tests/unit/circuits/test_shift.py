"""Shift of circuits: the null alarms as rarely as it says, other edges are found."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.unit.circuits.test_reliability import scores_of

from seglens.audit.alarm import ring
from seglens.circuits.shift import circuit_shift

RANDOM = np.random.default_rng(0)
COMMON = RANDOM.normal(size=30)


def patients(n, common=COMMON, noise=1.0):
    return common + noise * RANDOM.normal(size=(n, len(common)))


def test_it_is_one_less_the_rank_correlation():
    own, theirs = patients(5), patients(3)
    found = circuit_shift(scores_of(own), scores_of(theirs), draws=9)
    assert found.cohort == pytest.approx(1 - spearmanr(own.mean(0), theirs.mean(0)).statistic)
    assert found.patients[1] == pytest.approx(1 - spearmanr(own.mean(0), theirs[1]).statistic)
    assert found.calibration[2] == pytest.approx(1 - spearmanr(own[[0, 1, 3, 4]].mean(0), own[2]).statistic)


def test_random_halves_of_one_cohort_alarm_as_rarely_as_the_level_says():
    alarms = sum(
        circuit_shift(scores_of(whole[:10]), scores_of(whole[10:]), draws=39, seed=number).p <= 0.05
        for number in range(100)
        for whole in [patients(18)]
    )
    assert alarms <= 11  # binomial 97.5% for 5 of 100


def test_other_edges_are_found_in_the_cohort_and_patient_by_patient():
    source = scores_of(patients(25))
    same, other = scores_of(patients(25)), scores_of(patients(25, np.roll(COMMON, 3)))
    assert circuit_shift(source, other).p < 0.01
    shifts = [circuit_shift(source, cohort, draws=9) for cohort in (same, other)]
    rang = [ring(-shift.calibration, -shift.patients).rang_after for shift in shifts]
    assert rang[0] is None and rang[1] is not None and rang[1] <= 10


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="other edges"):
        circuit_shift(scores_of(patients(3)), scores_of(patients(3)[:, :5]))
    with pytest.raises(ValueError, match="one patient"):
        circuit_shift(scores_of(patients(1)), scores_of(patients(3)))
