from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from seglens.diffing import matching


def similarity(n_a, n_b, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n_a, n_b)).astype(np.float32)


@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (3, 5), (5, 3)])
def test_hungarian_equals_trying_every_assignment(n_a, n_b):
    for seed in range(5):
        c = similarity(n_a, n_b, seed)
        match = matching.hungarian(c)
        small = min(n_a, n_b)
        assert (match >= 0).sum() == small == len({column for column in match if column >= 0})
        got = sum(c[row, column] for row, column in enumerate(match) if column >= 0)
        if n_a <= n_b:
            best = max(sum(c[row, column] for row, column in enumerate(p)) for p in permutations(range(n_b), n_a))
        else:
            best = max(sum(c[row, column] for column, row in enumerate(p)) for p in permutations(range(n_a), n_b))
        assert got == pytest.approx(best, rel=1e-6)


def with_zeros(rng, n_a, n_b, *, rows=0.3, columns=0.0, sign=None):
    c = rng.uniform(-1, 1, (n_a, n_b)).astype(np.float32)
    if sign:
        c = sign * np.abs(c)
    c[rng.random(n_a) < rows] = 0
    c[:, rng.random(n_b) < columns] = 0
    return c


KINDS = {
    "any sign": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0),
    "float64, large": lambda rng, n_a, n_b: rng.normal(0, 1e6, (n_a, n_b)),
    "tiny": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0) * np.float32(1e-9),
    "ties": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0).round(1),
    "duplicated rows": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b)[rng.integers(0, n_a // 3 + 1, n_a)],
    "all equal": lambda rng, n_a, n_b: np.full((n_a, n_b), 0.3, dtype=np.float32),
    "all negative": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0, sign=-1),
    "rank one": lambda rng, n_a, n_b: np.outer(rng.random(n_a), -rng.random(n_b)),
    "zero rows": with_zeros,
    "zero rows and columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, columns=0.3),
    "positive, zero rows and columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, columns=0.3, sign=1),
    "negative, zero columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0, columns=0.3, sign=-1),
    "all zero": lambda rng, n_a, n_b: np.zeros((n_a, n_b), dtype=np.float32),
    "columns first": lambda rng, n_a, n_b: np.asfortranarray(with_zeros(rng, n_a, n_b, rows=0)),
}
SHAPES = ((1, 1), (1, 7), (7, 1), (2, 2), (13, 13), (24, 24), (9, 21), (21, 9), (30, 31), (200, 200), (120, 160))


@pytest.mark.parametrize("kind", list(KINDS))
def test_hungarian_is_as_good_as_scipy_and_the_same_twice(kind):
    for seed in range(6):
        for shape in SHAPES:
            c = KINDS[kind](np.random.default_rng(seed), *shape)
            match = matching.hungarian(c)
            rows = (match >= 0).nonzero()[0]
            assert len(rows) == min(shape) == len(set(match[rows].tolist()))
            best = c[linear_sum_assignment(c, maximize=True)].sum(dtype=np.float64)
            scale = max(1.0, float(np.abs(c).max()))
            assert c[rows, match[rows]].sum(dtype=np.float64) == pytest.approx(best, rel=1e-10, abs=1e-10 * scale)
            assert matching.hungarian(c.copy()).tolist() == match.tolist()


def test_a_live_row_takes_a_zero_column_where_that_is_better():
    c = np.array([[0.9, -0.5, 0.0], [0.8, -0.7, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert matching.hungarian(c).tolist() == [0, 2, 1]
    assert matching.hungarian(c[:2, :2]).tolist() == [1, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    c = similarity(8, 9)
    c[5, 2] = value
    with pytest.raises(ValueError, match="row 5 and column 2"):
        matching.hungarian(c)


def test_greedy_is_each_rows_best_in_blocks(monkeypatch):
    monkeypatch.setattr(matching, "ROWS_AT_ONCE", 3)
    c = similarity(10, 4)
    assert matching.greedy(c).tolist() == [max(range(4), key=lambda column: row[column]) for row in c]


def test_sinkhorn_equals_explicit_scaling():
    c = similarity(6, 9, 1).astype(np.float64)
    plan = np.exp(c / 0.05)
    for _ in range(400):
        plan /= plan.sum(1, keepdims=True) * 6
        plan /= plan.sum(0, keepdims=True) * 9
    assert matching.sinkhorn(c.astype(np.float32), iterations=400).tolist() == plan.argmax(1).tolist()


def test_all_find_a_clear_permutation(monkeypatch):
    monkeypatch.setattr(matching, "ROWS_AT_ONCE", 4)
    vectors = torch.randn(11, 30, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    c = matching.cosine(vectors, vectors[order])
    expected = order.argsort().tolist()
    for matcher in (matching.hungarian, matching.greedy, matching.sinkhorn):
        assert matcher(c).tolist() == expected


def test_cosine_is_safe_with_zero_rows_and_in_range(monkeypatch):
    monkeypatch.setattr(matching, "ROWS_AT_ONCE", 2)
    a = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    a[2] = 0
    b = torch.cat([a[3:], torch.zeros(1, 7, dtype=torch.float64)])
    c = matching.cosine(a, b)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2, eps=1e-30)
    np.testing.assert_allclose(c, expected.numpy(), atol=1e-6)
    assert np.isfinite(c).all() and not c[2].any() and not c[:, 2].any() and np.abs(c).max() <= 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match(shape):
    empty = np.zeros(shape, dtype=np.float32)
    for matcher in (matching.hungarian, matching.greedy, matching.sinkhorn):
        assert matcher(empty).tolist() == [-1] * shape[0]


def test_refusals():
    with pytest.raises(ValueError, match="width 3 and 4"):
        matching.cosine(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"temperature 0\.001"):
        matching.sinkhorn(similarity(2, 2), temperature=0.001)
