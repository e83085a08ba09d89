from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from seglens.diffing.rank_test import rank_test, strata_of


def _enumerated(off, on, off_strata, on_strata):
    """p by trying every assignment of patients to groups within strata, one response."""
    from scipy.stats import rankdata

    distributions, distance = [], 0.0
    for stratum in sorted(set(off_strata) & set(on_strata)):
        a = [value for value, name in zip(off, off_strata, strict=True) if name == stratum]
        b = [value for value, name in zip(on, on_strata, strict=True) if name == stratum]
        ranks = rankdata([*a, *b])
        mean = len(b) * (len(ranks) + 1) / 2
        distance += ranks[len(a) :].sum() - mean
        chosen = combinations(range(len(ranks)), len(b))
        distributions.append([sum(ranks[place] for place in places) - mean for places in chosen])
    sums = [0.0]
    for one in distributions:
        sums = [before + value for before in sums for value in one]
    return sum(abs(value) >= abs(distance) - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize(("n_off", "n_on"), [(4, 4), (3, 5), (2, 2), (1, 5)])
@pytest.mark.parametrize("ties", [False, True])
def test_p_is_exact_in_small_groups(n_off, n_on, ties):
    generator = np.random.default_rng(n_off)
    off, on = generator.normal(size=(n_off, 6)), generator.normal(size=(n_on, 6)) + 1
    if ties:
        off, on = off.clip(0).round(), on.clip(0).round()
    found = rank_test(off, on).p
    one = [""] * n_off, [""] * n_on
    np.testing.assert_allclose(found, [_enumerated(off[:, k], on[:, k], *one) for k in range(6)])
    if not ties:
        np.testing.assert_allclose(found, mannwhitneyu(off, on, axis=0, method="exact").pvalue)


def test_p_within_strata_is_exact():
    generator = np.random.default_rng(0)
    off, on = generator.normal(size=(6, 5)), generator.normal(size=(7, 5)).round()
    strata = ["a", "a", "a", "b", "b", "only"], ["b", "b", "a", "a", "b", "b", "alone"]
    found = rank_test(off, on, strata)
    np.testing.assert_allclose(found.p, [_enumerated(off[:, k], on[:, k], *strata) for k in range(5)])
    pairs = [(a, b) for a in range(6) for b in range(7) if strata[0][a] == strata[1][b]]
    wins = [np.mean([(on[b, k] > off[a, k]) + 0.5 * (on[b, k] == off[a, k]) for a, b in pairs]) for k in range(5)]
    np.testing.assert_allclose(found.auroc, wins)


def test_p_of_many_patients_is_the_normal_one():
    generator = np.random.default_rng(0)
    off, on = generator.normal(size=(30, 8)).clip(0), generator.normal(size=(40, 8)).clip(0) + 0.1
    on[:, 0] = off[:, 0] = 2.0
    found = rank_test(off, on).p
    wanted = mannwhitneyu(off[:, 1:], on[:, 1:], axis=0, method="asymptotic").pvalue
    np.testing.assert_allclose(found[1:], wanted)
    assert found[0] == 1


def test_the_normal_p_and_the_counted_one_meet(monkeypatch):
    generator = np.random.default_rng(1)
    off, on = generator.normal(size=(22, 10)), generator.normal(size=(24, 10)) + 0.4
    counted = rank_test(off, on)
    monkeypatch.setattr("seglens.diffing.rank_test.MAX_EXACT", 0)
    normal = rank_test(off, on)
    np.testing.assert_allclose(counted.p, normal.p, rtol=0.15)
    np.testing.assert_allclose(counted.least_auroc(0.01), normal.least_auroc(0.01), atol=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.003, 1e-3])
def test_the_least_effect_is_the_smallest_that_reaches_the_level(alpha):
    """Eight patients against eight, moved past each other one pair at a time."""
    off = np.arange(8.0)[:, None]
    ladder = [rank_test(off, off + 0.5 + shift) for shift in range(9)]
    reached = [step.auroc[0] for step in ladder if step.p[0] <= alpha]
    least = ladder[0].least_auroc(alpha)[0]
    assert least <= min(reached)
    assert least > max(step.auroc[0] for step in ladder if step.p[0] > alpha)


def test_too_few_patients_cannot_reach_a_level():
    three = rank_test(np.zeros((3, 1)), np.ones((3, 1)))
    assert three.p[0] == pytest.approx(0.1)
    assert np.isnan(three.least_auroc(0.05)[0])
    assert rank_test(np.empty((3, 0)), np.empty((4, 0))).p.shape == (0,)


def test_strata_are_bins_of_numbers_and_texts_as_they_are():
    off, on = strata_of({"ml": ([1, 2, 30], [40, 3, None]), "scanner": (["a", "a", "b"], ["b", None, "a"])}, bins=2)
    assert off == ["0; a", "0; a", "1; b"]
    assert on == ["1; b", "1; unknown", "unknown; a"]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
def test_numbers_of_numpy_are_binned_as_others(dtype):
    """Taken for anything but numbers, every patient would fall into one bin without a word."""
    off, on = list(np.array([1, 2, 30], dtype)), list(np.array([40, 3, 9], dtype))
    assert strata_of({"age": (off, on)}, bins=2) == strata_of({"age": ([1, 2, 30], [40, 3, 9])}, bins=2)
    assert strata_of({"age": (off, [*on[:2], np.float32("nan")])}, bins=2)[1] == ["1", "1", "unknown"]


def test_truth_values_are_taken_as_they_are():
    found = strata_of({"contrast": ([True, np.bool_(False)], [False, None])})
    assert found == (["True", "False"], ["False", "unknown"])


def test_a_covariate_that_parts_nobody_is_refused():
    with pytest.raises(ValueError, match="'age': its 5 numbers, 7 to 7, all fall into one of 3 bins"):
        strata_of({"age": ([7, 7, None], [7, 7, 7])})
    with pytest.raises(ValueError, match="'age': its 4 numbers, 0 to 5, all fall into one of 2 bins"):
        strata_of({"scanner": (["a", "b"], ["a", "b"]), "age": ([0, 0], [0, 5])}, bins=2)
    with pytest.raises(ValueError, match="'age' holds a datetime64; legal are numbers, texts and None"):
        strata_of({"age": ([np.datetime64("2000-01-01"), 1], [2, 3])})


def test_refusals():
    with pytest.raises(ValueError, match="strata of 2 and 3 patients for groups of 3 and 3"):
        rank_test(np.zeros((3, 1)), np.zeros((3, 1)), (["a"] * 2, ["a"] * 3))
    with pytest.raises(ValueError, match="no stratum has patients of both groups: a and b"):
        rank_test(np.zeros((2, 1)), np.zeros((2, 1)), (["a"] * 2, ["b"] * 2))
    with pytest.raises(ValueError, match="0 covariates"):
        strata_of({})
