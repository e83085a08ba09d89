from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from seglens.diffing import market as module
from seglens.diffing.market import Market, best_matching, least_prices
from seglens.diffing.pairs import Pairs


@pytest.fixture(params=["scipy", "numba"])
def way(request, monkeypatch):
    """Both ways, on problems of any size."""
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setattr(module, "COMPILED_FROM", 0 if request.param == "numba" else 10**9)
    return request.param


def pairs_of(similarity, listed):
    """The listed pairs, and a diagonal so that there is a matching."""
    n_a, n_b = similarity.shape
    listed = listed | (np.arange(n_a)[:, None] == np.arange(n_b))
    keys = np.flatnonzero(listed)
    return Pairs(keys, similarity.ravel()[keys].astype(np.float64), np.full(n_a, np.inf), np.full(n_b, np.inf))


def dense(market):
    """[buyers goods], very negative where there is no pair."""
    values = np.full((market.n_buyers, market.n_goods), -1e6)
    values[market.buyers, market.goods] = market.values
    return values


def made(seed, n_a, n_b, density=0.4, decimals=9):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (n_a, n_b)).round(decimals)
    return similarity, rng.random((n_a, n_b)) < density


@pytest.mark.parametrize("decimals", [9, 1, 0])
@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (4, 9), (9, 4), (30, 30), (25, 40), (40, 25)])
def test_matching_and_least_prices(shape, decimals, way):
    for seed in range(5):
        market = Market.of(pairs_of(*made(seed, *shape, decimals=decimals)))
        values = dense(market)
        partners = best_matching(market, None)
        assert len(set(partners.tolist())) == market.n_buyers
        total = values[linear_sum_assignment(values, maximize=True)].sum()
        assert market.worth(partners).sum() == pytest.approx(total)
        prices = least_prices(market, partners)
        kept = market.worth(partners) - prices[partners]
        assert (kept[:, None] >= values - prices - 1e-12).all() and prices.min() >= 0
        assert not prices[np.setdiff1d(np.arange(market.n_goods), partners)].any()
        assert prices.sum() == pytest.approx(least_sum(values, total), abs=1e-9)


def least_sum(values, total):
    """The smallest sum of goods' prices among all optimal dual solutions, by linear programming."""
    n, n_goods = values.shape
    buyer, good = np.divmod(np.flatnonzero(values > -1e5), n_goods)
    rows = np.zeros((len(buyer), n + n_goods))
    rows[np.arange(len(buyer)), buyer] = rows[np.arange(len(buyer)), n + good] = -1
    found = linprog(
        np.r_[np.zeros(n), np.ones(n_goods)],
        A_ub=rows,
        b_ub=-values[buyer, good],
        A_eq=np.ones((1, n + n_goods)),
        b_eq=[total],
        bounds=[(None, None)] * n + [(0, None)] * n_goods,
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize("shape", [(20, 20), (15, 25), (25, 15)])
def test_going_on_from_fewer_pairs_is_the_same_as_starting_anew(shape, way):
    for seed in range(20):
        similarity, some = made(seed, *shape, density=0.15)
        first = Market.of(pairs_of(similarity, some))
        partners = best_matching(first, None)
        before = partners.copy(), least_prices(first, partners)
        second = Market.of(pairs_of(similarity, some | made(seed + 100, *shape, density=0.2)[1]))
        onwards, anew = best_matching(second, before), best_matching(second, None)
        assert onwards.tolist() == anew.tolist()
        assert before[0].tolist() == partners.tolist()  # what it went on from is left as it was
        assert least_prices(second, onwards).tolist() == pytest.approx(least_prices(second, anew).tolist(), abs=1e-12)


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
def test_equals_trying_every_matching(shape, way):
    market = Market.of(pairs_of(*made(1, *shape, density=1.0)))
    values = dense(market)
    best = max(
        permutations(range(market.n_goods), market.n_buyers),
        key=lambda goods: sum(map(float, values[range(market.n_buyers), goods])),
    )
    assert best_matching(market, None).tolist() == list(best)


def test_search_for_prices_ends(way, monkeypatch):
    monkeypatch.setattr(module, "MOST_WORK", 3)
    similarity = np.array([[0.0, 1.0], [1.0, 0.0]])
    market = Market.of(pairs_of(similarity, np.ones((2, 2), dtype=bool)))
    prices = least_prices(market, np.array([0, 1]))  # not optimal: no prices are enough
    assert prices.shape == (2,) and np.isfinite(prices).all()
    kept = similarity[[0, 1], [0, 1]] - prices
    assert (similarity - kept[:, None] - prices).max() > 0  # and these do not pretend to be
