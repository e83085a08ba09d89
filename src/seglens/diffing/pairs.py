"""Which pairs of rows and columns an optimal assignment may need, found by looking at all pairs block by block."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

ROWS_AT_ONCE = 64
"""Rows of a block: 64 x 10,240 similarities and what is worked out from them stay in a processor's cache."""
PROMISING = 32
"""Best pairs of every row and of every column (about: they are estimated from a sample) that the search begins with."""
SAMPLED = 512
"""Of every row and column, so many similarities tell how large its best ones are."""

Block = Float[np.ndarray, "r n_b"]
Blocks = Callable[[slice], Block]
"""The similarities of some rows with all columns."""
RowPrices = Float64[np.ndarray, " n_a"]
ColumnPrices = Float64[np.ndarray, " n_b"]


@dataclass(frozen=True)
class Pairs:
    """Some pairs of rows and columns with their similarity.

    Attributes:
        keys: ``row * n_columns + column``, ascending, each once.
        values: similarity of each, float64.
        shape: rows and columns of the whole.
    """

    keys: Int64[np.ndarray, " p"]
    values: Float64[np.ndarray, " p"]
    shape: tuple[int, int]

    @property
    def rows(self) -> Int64[np.ndarray, " p"]:
        """The row of each pair."""
        return self.keys // max(self.shape[1], 1)

    @property
    def columns(self) -> Int64[np.ndarray, " p"]:
        """The column of each pair."""
        return self.keys % max(self.shape[1], 1)

    def joined(self, other: "Pairs") -> "Pairs":
        """These pairs and those of ``other``."""
        places = np.searchsorted(self.keys, other.keys)
        known = self.keys[np.minimum(places, len(self.keys) - 1)] == other.keys if len(self.keys) else places > 0
        places, keys, values = places[~known], other.keys[~known], other.values[~known]
        return Pairs(np.insert(self.keys, places, keys), np.insert(self.values, places, values), self.shape)

    def at(self, rows: Int64[np.ndarray, " k"], columns: Int64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Similarity of pairs that are among these."""
        return self.values[np.searchsorted(self.keys, rows * self.shape[1] + columns)]


def row_blocks(n: int) -> list[slice]:
    """The slices that ``n`` rows are looked at in."""
    return [slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, n, ROWS_AT_ONCE)]


def all_pairs(blocks: Blocks, shape: tuple[int, int]) -> Pairs:
    """Every pair."""
    values = np.concatenate([finite(blocks(rows), rows).astype(np.float64).ravel() for rows in row_blocks(shape[0])])
    return Pairs(np.arange(shape[0] * shape[1]), values, shape)


def promising_pairs(blocks: Blocks, shape: tuple[int, int]) -> Pairs:
    """About the ``PROMISING`` largest of every row and of every column.

    How large those are is estimated from a sample; a pair that is missed is found by ``underpriced_pairs`` if it
    matters.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    n_a, n_b = shape
    enough_for_columns = _about_largest(blocks(slice(0, n_a, max(1, n_a // SAMPLED))).T, n_a)
    keys, values = [], []
    for rows in row_blocks(n_a):
        block = finite(blocks(rows), rows)
        enough = _about_largest(block[:, :: max(1, n_b // SAMPLED)], n_b)[:, None]
        found = np.flatnonzero((block >= enough) | (block >= enough_for_columns))
        if len(found) > 8 * PROMISING * len(block):  # ties: nearly everything is as large as the best
            found = _thinned(found, np.zeros(len(found)), n_b, 2 * PROMISING)
        keys.append(found + rows.start * n_b)
        values.append(block[np.divmod(found, n_b)].astype(np.float64))
    return Pairs(np.concatenate(keys), np.concatenate(values), shape)


def chosen_pairs(blocks: Blocks, shape: tuple[int, int], columns: Int64[np.ndarray, " n_a"]) -> Pairs:
    """One pair a row, the column given; none where it is -1."""
    matched = columns.astype(np.int64)
    kept = matched >= 0
    values = [blocks(rows)[np.arange(rows.stop - rows.start), matched[rows]] for rows in row_blocks(shape[0])]
    keys = np.arange(shape[0]) * shape[1] + matched
    return Pairs(keys[kept], np.concatenate(values).astype(np.float64)[kept], shape)


def underpriced_pairs(
    blocks: Blocks, shape: tuple[int, int], row_prices: RowPrices, column_prices: ColumnPrices, *, most: int
) -> tuple[Pairs, RowPrices]:
    """Pairs whose similarity exceeds the prices of their row and column, found by looking at all pairs.

    Every block is screened in its own precision with a margin for rounding; what is near is worked out in float64.

    Returns:
        The worst pairs of every row, at most ``most`` of each; and by how much each row must be dearer for none of its
        pairs to be underpriced, at least 0.
    """
    n_a, n_b = shape
    scale = float(np.abs(row_prices).max() + np.abs(column_prices).max())
    tolerance = 1e-12 * scale  # float64 sums of some hundred prices
    missing = np.zeros(n_a)
    keys, values = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    screen: tuple[Block, np.ndarray] | None = None
    for rows in row_blocks(n_a):
        block = blocks(rows)
        if screen is None:
            rounded = column_prices.astype(block.dtype)
            margin = 4 * float(np.finfo(block.dtype).eps) * scale
            screen = np.empty_like(block, order="C"), np.empty(block.shape, dtype=bool)
        net, near = (array[: len(block)] for array in screen)
        np.subtract(block, rounded, out=net)
        np.greater(net, (row_prices[rows] - margin).astype(block.dtype)[:, None], out=near)
        found = np.flatnonzero(near)
        row, column = np.divmod(found, n_b)
        value = block[row, column].astype(np.float64)
        over = value - row_prices[rows][row] - column_prices[column]
        np.maximum.at(missing[rows], row, over)
        found, value, over = (array[over > tolerance] for array in (found, value, over))
        kept = np.isin(found, _thinned(found, over, n_b, most), assume_unique=True)
        keys.append(found[kept] + rows.start * n_b)
        values.append(value[kept])
    return Pairs(np.concatenate(keys), np.concatenate(values), shape), missing


def finite(block: Block, rows: slice) -> Block:
    """The block, if all of it is finite.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    # The sum is cheaper than a look at every element, and is not finite if one of them is not.
    if not np.isfinite(block.sum()) and not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise ValueError(
            f"the similarity of row {rows.start + row} and column {column} is {block[row, column]}; all must be finite"
        )
    return block


def _about_largest(sample: Float[np.ndarray, "n s"], n: int) -> Float[np.ndarray, " n"]:
    """For each row of a sample out of ``n`` what about its ``PROMISING`` largest exceed."""
    size = sample.shape[1]
    rank = min(size, max(1, round(PROMISING * size / n)))
    return np.partition(sample, size - rank, axis=1)[:, size - rank]


def _thinned(
    found: Int64[np.ndarray, " p"], scores: Float64[np.ndarray, " p"], n_b: int, most: int
) -> Int64[np.ndarray, " q"]:
    """Ascending flat positions, at most ``most`` a row: those of the highest score, ties by lot (of a fixed seed)."""
    if len(found) <= most:
        return found
    lots = np.random.default_rng(0).random(len(found))
    row = found // n_b
    order = np.lexsort((lots, -scores, row))
    starts = np.searchsorted(row, row)  # position of each row's first, for rows are in order
    return np.sort(found[order[np.arange(len(found)) - starts < most]])
