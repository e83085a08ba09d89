import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from seglens.diffing import assignment as module
from seglens.diffing import market, pairs
from seglens.diffing.assignment import Assignment, assign, assign_cosine
from seglens.diffing.matching import cosine, unit_rows


@pytest.fixture
def tight(monkeypatch):
    """Tiny problems take the sparse way too, in several blocks and rounds, from few and badly estimated pairs."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "MOST_NEW", 1)
    monkeypatch.setattr(pairs, "PROMISING", 2)
    monkeypatch.setattr(pairs, "SAMPLED", 5)
    monkeypatch.setattr(pairs, "ROWS_AT_ONCE", 3)


def check(found: Assignment, similarity: np.ndarray, rounding: float = 0.0) -> None:
    """A full matching, as good as scipy's, with prices that prove it; ``rounding``: of the similarities themselves."""
    n_a, n_b = similarity.shape
    rows = (found.match >= 0).nonzero()[0]
    assert len(rows) == min(n_a, n_b) == len(set(found.match[rows].tolist()))
    total = similarity[rows, found.match[rows]].sum(dtype=np.float64)
    best = similarity[linear_sum_assignment(similarity, maximize=True)].sum(dtype=np.float64)
    scale = max(1.0, float(np.abs(similarity).max(initial=0)))
    assert total == pytest.approx(best, rel=1e-10, abs=1e-10 * scale + rounding * n_a)
    assert found.total == pytest.approx(total, rel=1e-12, abs=1e-12 * scale + rounding * n_a)
    slack = found.row_prices[:, None] + found.column_prices[None] - similarity
    assert slack.min(initial=0) >= -1e-12 * scale - rounding
    assert n_a >= n_b or found.column_prices.min() >= 0
    assert n_b >= n_a or found.row_prices.min() >= 0
    assert found.bound == pytest.approx(found.row_prices.sum() + found.column_prices.sum(), rel=1e-12)
    assert found.bound >= best - 1e-9 * scale - rounding * n_a and found.gap <= max(1e-9, rounding)


def uniform(rng, n_a, n_b):
    return rng.uniform(-1, 1, (n_a, n_b)).astype(np.float32)


def with_zeros(rng, n_a, n_b, *, rows=0.3, columns=0.0, sign=None):
    c = uniform(rng, n_a, n_b)
    if sign:
        c = sign * np.abs(c)
    c[rng.random(n_a) < rows] = 0
    c[:, rng.random(n_b) < columns] = 0
    return c


KINDS = {
    "any sign": uniform,
    "float64, large": lambda rng, n_a, n_b: rng.normal(0, 1e6, (n_a, n_b)),
    "tiny": lambda rng, n_a, n_b: uniform(rng, n_a, n_b) * np.float32(1e-9),
    "ties": lambda rng, n_a, n_b: uniform(rng, n_a, n_b).round(1),
    "duplicated rows": lambda rng, n_a, n_b: uniform(rng, n_a, n_b)[rng.integers(0, n_a // 3 + 1, n_a)],
    "all equal": lambda rng, n_a, n_b: np.full((n_a, n_b), 0.3, dtype=np.float32),
    "all negative": lambda rng, n_a, n_b: -np.abs(uniform(rng, n_a, n_b)),
    "rank one": lambda rng, n_a, n_b: np.outer(rng.random(n_a), -rng.random(n_b)),
    "zero rows": with_zeros,
    "zero rows and columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, columns=0.3),
    "positive, zero rows and columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, columns=0.3, sign=1),
    "negative, zero columns": lambda rng, n_a, n_b: with_zeros(rng, n_a, n_b, rows=0, columns=0.3, sign=-1),
    "all zero": lambda rng, n_a, n_b: np.zeros((n_a, n_b), dtype=np.float32),
    "columns first": lambda rng, n_a, n_b: np.asfortranarray(uniform(rng, n_a, n_b)),
}
SHAPES = ((1, 1), (1, 7), (7, 1), (2, 2), (13, 13), (24, 24), (9, 21), (21, 9), (30, 31))


@pytest.mark.parametrize("kind", list(KINDS))
def test_equals_scipy_and_proves_it(kind, tight):
    for seed in range(6):
        for shape in SHAPES:
            rng = np.random.default_rng(seed)
            similarity = KINDS[kind](rng, *shape)
            check(assign(similarity), similarity)


@pytest.mark.parametrize("kind", list(KINDS))
def test_small_ones_are_scipys_own(kind):
    for shape in SHAPES:
        similarity = KINDS[kind](np.random.default_rng(0), *shape)
        found = assign(similarity)
        check(found, similarity)
        rows, columns = linear_sum_assignment(similarity, maximize=True)
        if similarity.any():
            assert found.method == "dense" and found.match[rows].tolist() == columns.tolist()


def test_pairs_that_were_missed_are_found_in_further_rounds(tight):
    rounds = []
    for seed in range(10):
        similarity = uniform(np.random.default_rng(seed), 40, 40)
        found = assign(similarity)
        assert found.method == "sparse"
        rounds.append(found.rounds)
    assert max(rounds) > 2


@pytest.mark.parametrize("shape", [(40, 40), (25, 40), (40, 25)])
@pytest.mark.parametrize("limit", [{"MOST_ROUNDS": 1}, {"MOST_PAIRS": 1}])
def test_what_does_not_end_is_solved_densely(shape, limit, tight, monkeypatch):
    similarity = uniform(np.random.default_rng(1), *shape)
    rounds = assign(similarity).rounds
    assert rounds > 1  # it needs more than it will get
    for name, value in limit.items():
        monkeypatch.setattr(module, name, value)
    found = assign(similarity)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    assert found.method == "dense" and found.match[rows].tolist() == columns.tolist()
    if "MOST_PAIRS" in limit:
        check(found, similarity)
    # However early the search for prices ends, they bound every matching.
    assert (found.row_prices[:, None] + found.column_prices[None] >= similarity - 1e-12).all()
    assert found.bound >= found.total


def test_prices_bound_even_where_their_search_is_cut_short(tight, monkeypatch):
    monkeypatch.setattr(market, "MOST_WORK", 0)
    similarity = uniform(np.random.default_rng(0), 20, 20)
    found = assign(similarity)
    assert (found.row_prices[:, None] + found.column_prices[None] >= similarity - 1e-12).all()
    assert found.gap > 0.01 and found.total == pytest.approx(
        similarity[linear_sum_assignment(similarity, maximize=True)].sum()
    )


def test_a_live_row_takes_a_zero_column_where_that_is_better(tight):
    similarity = np.array([[0.9, -0.5, 0.0], [0.8, -0.7, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    found = assign(similarity)
    assert found.match.tolist() == [0, 2, 1] and found.method == "dense"
    check(found, similarity)


def test_dead_rows_are_put_aside(tight, monkeypatch):
    similarity = with_zeros(np.random.default_rng(1), 30, 30, columns=0.2, sign=1)
    monkeypatch.setattr(module, "_dense", None)
    found = assign(similarity)
    assert found.method == "sparse"
    check(found, similarity)


@pytest.mark.parametrize("shape", [(700, 700), (650, 900), (900, 650)])
def test_larger_than_a_sample(shape):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(900, 24)).astype(np.float32)
    other = vectors + rng.normal(0, 0.7, vectors.shape).astype(np.float32)
    other[:400] = rng.normal(size=(400, 24))
    vectors[::7] = 0
    similarity = cosine(torch.from_numpy(vectors)[: shape[0]], torch.from_numpy(other)[: shape[1]])
    found = assign(similarity)
    assert found.method == "sparse"
    check(found, similarity)
    assert assign(similarity).match.tolist() == found.match.tolist()


@pytest.mark.parametrize(("n_a", "n_b"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match(n_a, n_b):
    found = assign(np.zeros((n_a, n_b), dtype=np.float32))
    assert found.match.tolist() == [-1] * n_a and found.total == found.bound == found.gap == 0


@pytest.mark.parametrize("zeros", [False, True])
def test_vectors_give_the_assignment_of_their_cosines(zeros, tight):
    generator = torch.Generator().manual_seed(0)
    for n_a, n_b in ((20, 20), (11, 20), (20, 11)):
        a, b = (unit_rows(torch.randn(n, 40, generator=generator).abs()) for n in (n_a, n_b))
        if zeros:
            a[::4], b[::5] = 0, 0
        found = assign_cosine(a, b)
        check(found, cosine(a, b), rounding=3e-7)  # sums of a product depend on how it is cut
        assert found.match.tolist() == assign(cosine(a, b)).match.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("small", [0, 100])
def test_what_is_not_finite_is_refused(value, small, tight, monkeypatch):
    monkeypatch.setattr(module, "SMALL", small)
    similarity = uniform(np.random.default_rng(0), 8, 9)
    similarity[5, 2] = value
    with pytest.raises(ValueError, match="row 5 and column 2"):
        assign(similarity)


def test_the_certificate_holds_the_figures():
    similarity = uniform(np.random.default_rng(0), 6, 5)
    found = assign(similarity)
    kept = found.certificate
    assert (kept.total, kept.bound, kept.gap, kept.rounds, kept.method) == (
        found.total, found.bound, found.gap, found.rounds, "dense",
    )  # fmt: skip
    wrong = Assignment(found.match, 200.0, 210.0, found.row_prices, found.column_prices, 1, "sparse")
    assert wrong.gap == pytest.approx(0.05)
