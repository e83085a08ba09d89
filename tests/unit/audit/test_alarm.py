import numpy as np
import pytest
from scipy.integrate import quad

from seglens.audit.alarm import LIMIT, bet, ring


def test_a_bet_pays_one_on_average():
    # in t = -ln p, for near 0 the payoff grows as 1 / (p ln(p)^2)
    mean, _ = quad(lambda t: bet(np.exp(-t)) * np.exp(-t), 1e-9, 600, limit=500)
    assert mean == pytest.approx(1, abs=3e-3)
    assert bet(1.0) == pytest.approx(0.5) and bet(np.exp(-2e-4)) == pytest.approx(bet(np.exp(-5e-5)), abs=1e-3)
    assert bet(1e-6) > 1000 and bet(0.01) > bet(0.1) > bet(0.9)


def test_without_a_change_alarms_are_as_rare_as_promised():
    random = np.random.default_rng(0)
    waits = []
    for run in range(80):
        found = ring(random.normal(size=40), random.normal(size=600), seed=run)
        waits.append(found.rang_after or 600)
    assert np.mean(waits) >= LIMIT


def test_a_fall_rings_within_few_patients_and_a_rise_never():
    random = np.random.default_rng(1)
    delays = []
    for run in range(40):
        calibration = random.normal(size=40)
        delays.append(ring(calibration, random.normal(-2, 1, 100), seed=run).rang_after)
        assert ring(calibration, random.normal(3, 1, 100), seed=run).rang_after is None
    assert None not in delays and np.median(delays) <= 12


def test_evidence_is_its_recursion_and_equal_values_are_ties():
    calibration = np.array([0.5, 0.6, 0.7, 0.8])
    found = ring(calibration, np.array([0.65, 0.1]), seed=3)
    draws = np.random.default_rng(3).random(2)
    first = bet((2 + draws[0]) / 5)
    assert found.evidence == pytest.approx([first, (first + 1) * bet(draws[1] / 5)])
    same = [ring(np.full(20, 0.8), np.full(30, 0.8), seed=seed).rang_after for seed in range(30)]
    assert sum(one is not None for one in same) <= 9  # a constant prediction says nothing: p-values are uniform


def test_no_calibration_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ring(np.zeros(0), np.array([0.5]))
