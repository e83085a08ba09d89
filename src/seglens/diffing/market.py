"""Maximum-weight matching on a sparse set of pairs, and the least prices that prove it.

The terms are those of the assignment market (Shapley and Shubik 1971): the narrower side are buyers, the wider goods. A
buyer pays a price for its good, and at equilibrium no buyer would rather have another good; then the matching is
optimal. Of all such prices the least are unique.

Two ways, of the same result: scipy and numpy; or, where numba is installed (``pip install 'med-seglens[fast]'``) and
the problem is large enough to wait for it, a compiled loop that also goes on from the matching of the round before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from importlib.util import find_spec
from inspect import unwrap
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from seglens.diffing.pairs import Pairs

COMPILED_FROM = 2048
"""Buyers; with fewer, loading numba takes longer than all the rest."""
MOST_WORK = 500
"""The search for prices ends after looking at each pair so often; it needs about 15, more only on adversarial data."""
LEAST_STEP = 1e-13
"""Price differences below this share of the largest value are rounding."""

Partners = Int64[np.ndarray, " n"]
"""The good of each buyer."""
Prices = Float64[np.ndarray, " n_goods"]


@dataclass(frozen=True)
class Market:
    """Pairs of buyers and goods in compressed sparse rows.

    Attributes:
        offsets: where each buyer's pairs begin, and the end.
        goods: of each pair.
        values: what the good is worth to the buyer.
        n_goods: at least as many as buyers.
        buyers_are_rows: else they are the columns.
    """

    offsets: Int64[np.ndarray, " n_plus_1"]
    goods: Int64[np.ndarray, " p"]
    values: Float64[np.ndarray, " p"]
    n_goods: int
    buyers_are_rows: bool

    @classmethod
    def of(cls, pairs: Pairs) -> "Market":
        """The market whose buyers are the narrower side."""
        buyers, goods, values = pairs.rows, pairs.columns, pairs.values
        buyers_are_rows = pairs.shape[0] <= pairs.shape[1]
        if not buyers_are_rows:
            order = np.argsort(goods, kind="stable")
            buyers, goods, values = goods[order], buyers[order], values[order]
        offsets = np.searchsorted(buyers, np.arange(min(pairs.shape) + 1))
        return cls(offsets, goods, values, max(pairs.shape), buyers_are_rows)

    @property
    def n_buyers(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1

    @property
    def buyers(self) -> Int64[np.ndarray, " p"]:
        """The buyer of each pair."""
        return np.repeat(np.arange(self.n_buyers), np.diff(self.offsets))

    def worth(self, partners: Partners) -> Float64[np.ndarray, " n"]:
        """What each buyer's partner is worth to it."""
        return self.values[self.goods == partners[self.buyers]]

    @property
    def least_step(self) -> float:
        """A price difference that is more than rounding."""
        return LEAST_STEP * float(np.abs(self.values).max())


def best_matching(market: Market, before: tuple[Partners, Prices] | None) -> Partners:
    """The matching of all buyers with the largest total.

    Args:
        market: there must be a matching of all buyers.
        before: matching and prices of a market of the same buyers and goods and a part of these pairs, to go on from.
    """
    if _compiles(market):
        partners = before[0].copy() if before else np.full(market.n_buyers, -1, dtype=np.int64)
        prices = before[1].copy() if before else np.zeros(market.n_goods)
        _compiled(_augment)(market.offsets, market.goods, market.values, partners, prices, market.least_step)
        return partners
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    cost = -market.values
    if before is not None and market.n_buyers == market.n_goods:
        # All goods are matched, so taking their prices off moves all matchings alike; it is faster, for most pairs of
        # the best matching now cost the same.
        cost += before[1][market.goods]
    cost += (float(np.ptp(cost)) or 1.0) - cost.min()  # an edge of weight 0 is no edge to scipy
    graph = csr_array((cost, market.goods, market.offsets), shape=(market.n_buyers, market.n_goods))
    return min_weight_full_bipartite_matching(graph)[1].astype(np.int64)


def least_prices(market: Market, partners: Partners) -> Prices:
    """The least prices, at least 0, under which no buyer would rather have another good than its partner.

    ``price_j >= value_ij - value_i,partner(i) + price_partner(i)`` for every pair: longest paths (Bellman-Ford, along
    what has just changed). They are finite if the matching is optimal; goods that no buyer has keep the price 0.
    """
    gain = market.values - np.repeat(market.worth(partners), np.diff(market.offsets))
    buyer_of = np.full(market.n_goods, -1, dtype=np.int64)
    buyer_of[partners] = np.arange(market.n_buyers)
    prices = np.zeros(market.n_goods)
    most_work = MOST_WORK * len(gain)
    if _compiles(market):
        _compiled(_raise_prices)(
            market.offsets, market.goods, gain, partners, buyer_of, prices, market.least_step, most_work
        )
        return prices
    changed, work = np.arange(market.n_buyers), 0
    while len(changed) and work < most_work:
        counts = market.offsets[changed + 1] - market.offsets[changed]
        ends = counts.cumsum()
        seen = np.repeat(market.offsets[changed] - ends + counts, counts) + np.arange(ends[-1])
        needed = gain[seen] + np.repeat(prices[partners[changed]], counts)
        goods = market.goods[seen]
        dearer = (needed > prices[goods] + market.least_step) & (buyer_of[goods] >= 0)
        np.maximum.at(prices, goods[dearer], needed[dearer])
        changed = np.unique(buyer_of[goods[dearer]])
        work += len(seen)
    return prices


def _compiles(market: Market) -> bool:
    return market.n_buyers >= COMPILED_FROM and find_spec("numba") is not None


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    bare = unwrap(function)  # of what a type checker of the tests puts around it
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(bare)
    return compiled


def _augment(offsets, goods, values, partners, prices, least_step):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    """Match every buyer: shortest augmenting paths with a heap (Dijkstra), from the equilibrium of those who stay."""
    n, n_goods = len(partners), len(prices)
    buyer_of = np.full(n_goods, -1)
    worth = np.zeros(n)
    for buyer in range(n):
        if partners[buyer] >= 0:
            buyer_of[partners[buyer]] = buyer
            for pair in range(offsets[buyer], offsets[buyer + 1]):
                if goods[pair] == partners[buyer]:
                    worth[buyer] = values[pair]
    # Buyers who would now rather have another good leave theirs. A good that may stay without a buyer costs nothing
    # then, which may tempt others.
    leaving = True
    while leaving:
        leaving = False
        for buyer in range(n):
            good = partners[buyer]
            if good < 0:
                continue
            net = worth[buyer] - prices[good] + least_step
            for pair in range(offsets[buyer], offsets[buyer + 1]):
                if values[pair] - prices[goods[pair]] > net:
                    partners[buyer], buyer_of[good] = -1, -1
                    if n < n_goods:
                        prices[good], leaving = 0.0, True
                    break
    distance, source, source_pair = np.full(n_goods, np.inf), np.empty(n_goods, np.int64), np.empty(n_goods, np.int64)
    settled, reached = np.zeros(n_goods, np.bool_), np.empty(n_goods, np.int64)
    for start in range(n):
        if partners[start] >= 0:
            continue
        best = -np.inf
        for pair in range(offsets[start], offsets[start + 1]):
            best = max(best, values[pair] - prices[goods[pair]])
        heap = [(0.0, 0) for _ in range(0)]
        n_reached, buyer, so_far, net, free, shortest = 0, start, 0.0, best, -1, np.inf
        while True:
            for pair in range(offsets[buyer], offsets[buyer + 1]):
                good = goods[pair]
                length = so_far + net - (values[pair] - prices[good])
                if settled[good] or length >= distance[good] or length >= shortest:
                    continue
                if distance[good] == np.inf:
                    reached[n_reached] = good
                    n_reached += 1
                distance[good], source[good], source_pair[good] = length, buyer, pair
                if buyer_of[good] < 0:
                    free, shortest = good, length
                else:
                    heappush(heap, (length, good))
            good = -1
            while heap and good < 0:
                so_far, good = heappop(heap)
                if settled[good]:
                    good = -1
            if good < 0 or so_far >= shortest:
                break
            settled[good] = True
            buyer = buyer_of[good]
            net = worth[buyer] - prices[good]
        for place in range(n_reached):
            good = reached[place]
            if settled[good]:
                prices[good] += shortest - distance[good]
            settled[good], distance[good] = False, np.inf
        buyer = -1
        while buyer != start:
            buyer = source[free]
            left = partners[buyer]
            buyer_of[free], partners[buyer], worth[buyer] = buyer, free, values[source_pair[free]]
            free = left


def _raise_prices(offsets, goods, gain, partners, buyer_of, prices, least_step, most_work):  # type: ignore[no-untyped-def]  # noqa: PLR0917
    """`least_prices` with a queue of the buyers whose good has become dearer."""
    n = len(partners)
    queue, waiting = np.arange(n), np.ones(n, np.bool_)
    first, n_waiting, work = 0, n, 0
    while n_waiting and work < most_work:
        buyer = queue[first]
        first, n_waiting, waiting[buyer] = (first + 1) % n, n_waiting - 1, False
        price = prices[partners[buyer]]
        work += offsets[buyer + 1] - offsets[buyer]
        for pair in range(offsets[buyer], offsets[buyer + 1]):
            good, needed = goods[pair], gain[pair] + price
            rival = buyer_of[good]
            if rival >= 0 and needed > prices[good] + least_step:
                prices[good] = needed
                if not waiting[rival]:
                    queue[(first + n_waiting) % n] = rival
                    n_waiting += 1
                    waiting[rival] = True
