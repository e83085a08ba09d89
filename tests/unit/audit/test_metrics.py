import math

import numpy as np
import pytest

from seglens.audit.metrics import detection, dice_errors, interval_coverage, risk_coverage


def cases(n_cases=20):
    """Confidences with many ties, and risks."""
    random = np.random.default_rng(0)
    for _ in range(n_cases):
        n = int(random.integers(2, 30))
        yield random.integers(0, 5, n).astype(float), random.random(n)


def mean_over_orders(confidence, risk, orders=4000):
    """Slow twin: equal confidences in random order, each unit a step of its own, areas by a fine sum."""
    random = np.random.default_rng(1)
    n, selective, generalised = len(risk), 0.0, 0.0
    for _ in range(orders):
        order = np.lexsort((random.random(n), -confidence))
        g = np.concatenate([[0.0], risk[order].cumsum() / n])
        generalised += np.trapezoid(g, dx=1 / n) / orders
        x = (np.arange(200 * n) + 0.5) / (200 * n)
        selective += (np.interp(x, np.arange(n + 1) / n, g) / x).mean() / orders
    return selective, generalised


def test_a_constant_confidence_is_exactly_chance():
    for _, risk in cases():
        found = risk_coverage(np.full(len(risk), 0.3), risk)
        assert found.aurc == pytest.approx(found.aurc_chance, abs=1e-15)
        assert found.augrc == pytest.approx(found.augrc_chance, abs=1e-15)
        assert found.normalised_aurc == pytest.approx(0, abs=1e-12)
        assert found.normalised_augrc == pytest.approx(0, abs=1e-12)


def test_the_risk_itself_is_the_optimum_and_nothing_is_better():
    for confidence, risk in cases():
        assert risk_coverage(-risk, risk).normalised_augrc == 1
        found = risk_coverage(confidence, risk)
        assert found.excess_aurc >= -1e-12 and found.augrc >= found.augrc_optimum - 1e-12
        assert risk_coverage(risk, risk).normalised_aurc <= 0


def test_areas_of_a_binary_risk_are_their_closed_forms():
    for confidence, risk in cases():
        failure = risk > 0.5
        e = failure.mean()
        if e in (0, 1):
            continue
        found = risk_coverage(confidence, failure.astype(float))
        auroc = detection(confidence, failure).auroc
        assert found.augrc == pytest.approx((1 - auroc) * e * (1 - e) + e**2 / 2, abs=1e-12)
        assert found.augrc_optimum == pytest.approx(e**2 / 2, abs=1e-12)
        assert found.aurc_optimum == pytest.approx(e + (1 - e) * math.log(1 - e), abs=1e-12)


def test_ties_are_the_mean_over_their_orders():
    confidence = np.array([3.0, 3, 2, 2, 2, 1])
    risk = np.array([0.1, 0.7, 0.2, 0.9, 0.4, 0.3])
    selective, generalised = mean_over_orders(confidence, risk)
    found = risk_coverage(confidence, risk)
    assert found.aurc == pytest.approx(selective, abs=3e-3)
    assert found.augrc == pytest.approx(generalised, abs=3e-3)


def test_auroc_counts_pairs():
    for confidence, risk in cases():
        failure = risk > 0.5
        pairs = [np.sign(b - a) / 2 + 0.5 for a in confidence[failure] for b in confidence[~failure]]
        if pairs:
            assert detection(confidence, failure).auroc == pytest.approx(np.mean(pairs))


def test_detector_without_failures_says_nothing():
    found = detection(np.arange(4.0), np.zeros(4, bool))
    assert found.n_failures == 0 and math.isnan(found.auroc) and math.isnan(found.caught)


def test_false_rates_and_what_a_fifth_catches():
    confidence = np.arange(20.0)
    failure = np.isin(np.arange(20), [0, 1, 9])
    found = detection(confidence, failure)
    assert found.fpr95_failures == pytest.approx(7 / 17)  # all three failures: units 0..9, seven of them sound
    assert found.fpr95_sound == pytest.approx(1 / 3)  # 17 sound units down to 2, which passes unit 9
    assert found.caught == pytest.approx(2 / 3)
    assert detection(np.zeros(20), failure).caught == pytest.approx(0.2)


def test_skill_is_against_a_constant():
    true = np.array([0.2, 0.5, 0.9, 0.6])
    assert dice_errors(np.full(4, 0.55), true, 0.55).skill == 0
    assert math.isnan(dice_errors(np.full(4, 0.55), true, 0.55).spearman)
    exact = dice_errors(true, true, 0.55)
    assert (exact.skill, exact.mae, exact.r2, exact.bias) == (1, 0, 1, 0)
    assert exact.spearman == pytest.approx(1) and exact.kendall == pytest.approx(1)
    shifted = dice_errors(true + 0.1, true, 0.55)
    assert shifted.bias == pytest.approx(0.1) and shifted.rmse == pytest.approx(0.1)
    assert shifted.spearman == pytest.approx(1)


def test_coverage_leaves_out_what_has_no_interval():
    low, high = np.array([0.1, np.nan, 0.4]), np.array([0.3, np.nan, 0.6])
    found = interval_coverage(low, high, np.array([0.2, 0.5, 0.7]))
    assert (found.n, found.share) == (2, 0.5) and found.mean_width == pytest.approx(0.2)
    assert interval_coverage(low[1:2], high[1:2], np.array([0.5])).n == 0


@pytest.mark.parametrize(
    ("confidence", "risk", "message"),
    [
        ([], [], "at least one"),
        ([float("nan")], [0.5], "not finite"),
        ([1.0], [1.5], "within 0..1"),
    ],
)
def test_what_cannot_be_measured_is_refused(confidence, risk, message):
    with pytest.raises(ValueError, match=message):
        risk_coverage(np.array(confidence), np.array(risk))
