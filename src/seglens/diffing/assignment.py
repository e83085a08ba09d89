"""Exact maximum-weight assignment with a certificate that anyone can check.

Few of the m x m pairs of latents can be in an optimal matching. So the problem is solved on a sparse set of promising
pairs, and the prices (dual variables) of that solution are checked against every pair. Where no pair is worth more than
the prices of its row and column, the matching is optimal among all; otherwise the pairs that are worth more join the
set, and it is solved again (column generation; sparse solver: Jonker and Volgenant 1987, in scipy). Where that does not
end in a bounded number of rounds, scipy's dense solver finds the matching.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from seglens.diffing.market import Market, Partners, Prices, best_matching, least_prices
from seglens.diffing.pairs import (
    Blocks,
    Chosen,
    ColumnPrices,
    Keys,
    Pairs,
    RowPrices,
    Values,
    all_pairs,
    chosen_pairs,
    finite,
    promising_pairs,
    row_blocks,
    underpriced_pairs,
)

SMALL = 512
"""Up to so many rows and columns the dense solver is as fast."""
MOST_ROUNDS = 16
MOST_PAIRS = 1024
"""A row: beyond that a sparse set is no longer sparse."""
MOST_NEW = 16
"""Pairs a row that join after the first round, doubled at every round: few where few are needed, all in the end."""
ENOUGH = 1e-9
"""A relative gap below which there is only rounding."""


@dataclass(frozen=True)
class Certificate:
    """How good a matching is proved to be, without the prices that prove it.

    Attributes:
        total: summed similarity of the matching.
        bound: no one-to-one matching of as many pairs has a larger total.
        gap: what the total may lack at most, ``(bound - total) / max(|total|, 1)``.
        rounds: how often prices were checked against all pairs.
        method: "sparse" or "dense".
    """

    total: float
    bound: float
    gap: float
    rounds: int
    method: str


@dataclass(frozen=True)
class Assignment:
    """A one-to-one matching, and prices that prove how good it is.

    Attributes:
        match: for each row its column, -1 where there is none; min(n_a, n_b) rows have one.
        total: summed similarity of the matching.
        bound: no one-to-one matching of as many pairs has a larger total (weak duality).
        row_prices: u, in units of similarity.
        column_prices: v. ``u_i + v_j >= similarity_ij`` for every pair (up to float64 rounding), the prices of the
            wider side are at least 0, and ``bound = sum u + sum v``.
        rounds: how often prices were checked against all pairs.
        method: "sparse", or "dense" where scipy's dense solver found the matching.
    """

    match: Int64[np.ndarray, " n_a"]
    total: float
    bound: float
    row_prices: RowPrices
    column_prices: ColumnPrices
    rounds: int
    method: Literal["sparse", "dense"]

    @property
    def gap(self) -> float:
        """What the total may lack at most, ``(bound - total) / max(|total|, 1)``; 0 up to rounding if optimal."""
        return max(self.bound - self.total, 0.0) / max(abs(self.total), 1.0)

    @property
    def certificate(self) -> Certificate:
        """The figures to be kept with a result."""
        return Certificate(self.total, self.bound, self.gap, self.rounds, self.method)


def assign(similarity: Float[np.ndarray, "n_a n_b"]) -> Assignment:
    """The one-to-one matching of largest total similarity.

    Every row (or, where there are fewer columns, every column) is matched, to a negative similarity too if need be.
    Where several matchings are best, which of them is returned is arbitrary but always the same. Zero rows and columns
    (dead latents) are put aside and take what is left over, unless a live one does better with them: the prices tell.

    Args:
        similarity: [n_a n_b], finite, of either sign. It is read in blocks of rows and never copied, unless the dense
            solver is needed, which takes 8 bytes a pair.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    rows, columns = _nonzero(similarity)
    whole = len(columns) == similarity.shape[1]

    def live(block: Chosen) -> Float[np.ndarray, "r c"]:
        chosen = similarity[block] if len(rows) == len(similarity) else similarity[rows[block]]
        return chosen if whole else chosen.take(columns, axis=1)

    return _assign(live, rows, columns, lambda block: similarity[block], similarity.shape)


def assign_cosine(a: Float32[Tensor, "n_a d"], b: Float32[Tensor, "n_b d"]) -> Assignment:
    """``assign`` for the cosine of two sets of vectors, worked out in blocks of rows at every look: never all at once.

    Slower than ``assign`` on an array that fits into memory, for every round is a matrix product. How a product is cut
    into blocks moves the last bits of a cosine, so matching and proof hold up to those (6e-8 a pair).

    Args:
        a: unit rows on the CPU (``matching.unit_rows``); zero rows have similarity 0 with all.
        b: the same of the columns.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """

    def cosines(rows: Float32[Tensor, "r d"], columns: Float32[Tensor, "c d"]) -> Blocks:
        turned = columns.T.contiguous()
        return lambda block: (rows[block] @ turned).clamp_(-1, 1).numpy()

    live = [vectors.any(dim=1).nonzero()[:, 0] for vectors in (a, b)]
    every = cosines(a, b)
    some = every if len(live[0]) == len(a) and len(live[1]) == len(b) else cosines(a[live[0]], b[live[1]])
    return _assign(some, live[0].numpy(), live[1].numpy(), every, (len(a), len(b)))


def _assign(
    live: Blocks,
    rows: Int64[np.ndarray, " live_a"],
    columns: Int64[np.ndarray, " live_b"],
    every: Blocks,
    shape: tuple[int, int],
) -> Assignment:
    """Assign without the zero rows and columns where that is optimal for all, and with them otherwise."""
    if min(len(rows), len(columns)) == 0:  # nothing, or zeros only
        match = _completed(np.full(shape[0], -1), shape[1])
        return Assignment(match, 0.0, 0.0, np.zeros(shape[0]), np.zeros(shape[1]), 0, "sparse")
    if max(shape) > SMALL:
        found = _sparse(live, (len(rows), len(columns)))
        if found is not None and (len(rows), len(columns)) != shape:
            found = _with_zeros(found, rows, columns, shape)
        if found is not None and found.gap <= ENOUGH:
            return found
    return _dense(every, shape)


def _sparse(blocks: Blocks, shape: tuple[int, int]) -> Assignment | None:
    """Solve on promising pairs, price all, add what is underpriced, repeat; None where that does not end."""
    # One pair a row (or a column), whatever it is worth: now there is a matching.
    diagonal = np.where(np.arange(shape[0]) < shape[1], np.arange(shape[0]), -1)
    pairs = promising_pairs(blocks, shape).joined(*chosen_pairs(blocks, diagonal, shape[1]))
    before: tuple[Partners, Prices] | None = None
    for rounds in range(1, MOST_ROUNDS + 1):
        market = Market.of(pairs)
        partners = best_matching(market, before)
        before = partners, least_prices(market, partners)
        found, more = _certified(blocks, pairs, market, *before, rounds=rounds, method="sparse")
        if not len(more[0]):
            return found
        n_before, pairs = len(pairs.keys), pairs.joined(*more)
        if len(pairs.keys) == n_before or len(pairs.keys) > MOST_PAIRS * max(shape):
            return None
    return None


def _dense(blocks: Blocks, shape: tuple[int, int]) -> Assignment:
    """Solve on all pairs; prices are sought among promising ones, and among more where those do not bound."""
    from scipy.optimize import linear_sum_assignment

    cost = np.empty(shape)
    for rows in row_blocks(shape[0]):
        np.negative(finite(blocks(rows), rows), out=cost[rows])
    match = np.full(shape[0], -1, dtype=np.int64)
    matched, columns = linear_sum_assignment(cost)
    match[matched] = columns
    del cost
    if max(shape) <= SMALL:
        pairs = all_pairs(blocks, shape)
    else:
        pairs = promising_pairs(blocks, shape).joined(*chosen_pairs(blocks, match, shape[1]))
    partners = match if shape[0] <= shape[1] else _turned(match, shape[1])
    for rounds in range(1, MOST_ROUNDS + 1):
        market = Market.of(pairs)
        prices = least_prices(market, partners)
        found, more = _certified(blocks, pairs, market, partners, prices, rounds=rounds, method="dense")
        n_before, pairs = len(pairs.keys), pairs.joined(*more)
        if len(pairs.keys) == n_before:
            break
    return found


def _certified(
    blocks: Blocks,
    pairs: Pairs,
    market: Market,
    partners: Partners,
    prices: Prices,
    *,
    rounds: int,
    method: Literal["sparse", "dense"],
) -> tuple[Assignment, tuple[Keys, Values]]:
    """A matching that is optimal among some pairs, its bound over all pairs, and the pairs that spoil the bound."""
    worth = market.worth(partners)
    kept = worth - prices[partners]
    rows, columns = (kept, prices) if market.buyers_are_rows else (prices, kept)
    keys, values, missing = underpriced_pairs(blocks, pairs, rows, columns, most=MOST_NEW * 2 ** (rounds - 1))
    rows = rows + missing
    match = partners if market.buyers_are_rows else _turned(partners, market.n_goods)
    bound = float(rows.sum() + columns.sum())
    return Assignment(match, float(worth.sum()), bound, rows, columns, rounds, method), (keys, values)


def _turned(match: Int64[np.ndarray, " n"], n: int) -> Int64[np.ndarray, " n_too"]:
    """The same matching seen from the other side."""
    turned = np.full(n, -1, dtype=np.int64)
    matched = (match >= 0).nonzero()[0]
    turned[match[matched]] = matched
    return turned


def _with_zeros(
    found: Assignment,
    rows: Int64[np.ndarray, " live_a"],
    columns: Int64[np.ndarray, " live_b"],
    shape: tuple[int, int],
) -> Assignment:
    """The same matching where zero rows and columns, at price 0, are there too: they take one another and what is left.

    That is optimal if no live price is below 0, so those that are become 0; what this adds to the bound shows it.
    """
    match = np.full(shape[0], -1, dtype=np.int64)
    match[rows] = np.where(found.match >= 0, columns[found.match], -1)
    row_prices, column_prices = np.zeros(shape[0]), np.zeros(shape[1])
    row_prices[rows], column_prices[columns] = found.row_prices, found.column_prices
    if len(columns) < shape[1] or shape[0] > shape[1]:
        row_prices.clip(0, out=row_prices)
    if len(rows) < shape[0] or shape[1] > shape[0]:
        column_prices.clip(0, out=column_prices)
    return replace(
        found,
        match=_completed(match, shape[1]),
        bound=float(row_prices.sum() + column_prices.sum()),
        row_prices=row_prices,
        column_prices=column_prices,
    )


def _completed(match: Int64[np.ndarray, " n_a"], n_b: int) -> Int64[np.ndarray, " n_a"]:
    """The rows without a column take the free columns, both in order."""
    match = match.astype(np.int64)
    rows = (match < 0).nonzero()[0]
    free = np.setdiff1d(np.arange(n_b), match)[: len(rows)]
    match[rows[: len(free)]] = free
    return match


def _nonzero(
    similarity: Float[np.ndarray, "n_a n_b"],
) -> tuple[Int64[np.ndarray, " live_a"], Int64[np.ndarray, " live_b"]]:
    """Rows and columns that are not all zeros; only those that look it in a sample are read in full."""
    n_a, n_b = similarity.shape
    in_rows: Bool[np.ndarray, " n_a"] = np.any(similarity[:, :: max(1, n_b // 64)], axis=1)
    in_columns: Bool[np.ndarray, " n_b"] = np.any(similarity[:: max(1, n_a // 64)], axis=0)
    doubtful = (~in_rows).nonzero()[0]
    for block in row_blocks(len(doubtful)):
        in_rows[doubtful[block]] = similarity[doubtful[block]].any(axis=1)
    doubtful = (~in_columns).nonzero()[0]
    if len(doubtful):
        for block in row_blocks(n_a):
            in_columns[doubtful] |= similarity[block][:, doubtful].any(axis=0)
    return in_rows.nonzero()[0], in_columns.nonzero()[0]
