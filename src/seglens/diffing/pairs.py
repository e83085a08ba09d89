"""Which pairs of rows and columns an optimal assignment may need, found by looking at all pairs block by block."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

ROWS_AT_ONCE = 64
"""Rows of a block: 64 x 10,240 similarities and what is worked out from them stay in a processor's cache."""
PROMISING = 32
"""Best pairs of every row and of every column, about, that the search begins with."""
GROUPS = 128
"""Of so many groups of a row's columns, the 32nd largest maximum is reached by at least 32 pairs, and few more."""
SAMPLED = 512
"""Rows that tell how large the best similarities of a column are."""

Block = Float[np.ndarray, "r n_b"]
Chosen = slice | Int64[np.ndarray, " r"]
Blocks = Callable[[Chosen], Block]
"""The similarities of some rows with all columns."""
RowPrices = Float64[np.ndarray, " n_a"]
ColumnPrices = Float64[np.ndarray, " n_b"]
Keys = Int64[np.ndarray, " p"]
Values = Float64[np.ndarray, " p"]


@dataclass(frozen=True)
class Pairs:
    """Some pairs of rows and columns with their similarity.

    Attributes:
        keys: ``row * n_columns + column``, ascending, each once.
        values: similarity of each, float64.
        row_floors: every other pair of a row is below; infinite where nothing is known.
        column_floors: the same of a column.
    """

    keys: Keys
    values: Values
    row_floors: RowPrices
    column_floors: ColumnPrices

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        return len(self.row_floors), len(self.column_floors)

    @property
    def rows(self) -> Int64[np.ndarray, " p"]:
        """The row of each pair."""
        return self.keys // self.shape[1]

    @property
    def columns(self) -> Int64[np.ndarray, " p"]:
        """The column of each pair."""
        return self.keys % self.shape[1]

    def joined(self, keys: Int64[np.ndarray, " q"], values: Float64[np.ndarray, " q"]) -> "Pairs":
        """With further pairs, ascending, of which some may be here already."""
        new = ~self.has(keys)
        places = np.searchsorted(self.keys, keys[new])
        return replace(
            self, keys=np.insert(self.keys, places, keys[new]), values=np.insert(self.values, places, values[new])
        )

    def has(self, keys: Int64[np.ndarray, " q"]) -> Bool[np.ndarray, " q"]:
        """Which pairs are among these."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool)
        return self.keys[np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)] == keys


def row_blocks(n: int) -> list[slice]:
    """The slices that ``n`` rows are looked at in."""
    return [slice(start, min(start + ROWS_AT_ONCE, n)) for start in range(0, n, ROWS_AT_ONCE)]


def all_pairs(blocks: Blocks, shape: tuple[int, int]) -> Pairs:
    """Every pair."""
    values = np.concatenate([finite(blocks(rows), rows).astype(np.float64).ravel() for rows in row_blocks(shape[0])])
    return Pairs(np.arange(len(values)), values, np.full(shape[0], -np.inf), np.full(shape[1], -np.inf))


def promising_pairs(blocks: Blocks, shape: tuple[int, int]) -> Pairs:
    """The largest pairs of every row, or column, of the narrower side; of both sides where they are equal.

    A row's are at least ``PROMISING``; how large a column's are is estimated from a sample of rows.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    n_a, n_b = shape
    row_floors, column_floors = np.full(n_a, np.inf), np.full(n_b, np.inf)
    if n_a >= n_b:
        sample = blocks(slice(0, n_a, max(1, n_a // SAMPLED)))
        column_floors = _largest(sample.T, round(PROMISING * len(sample) / n_a)).astype(np.float64)
    keys, values, thinned = [], [], False
    for rows in row_blocks(n_a):
        block = finite(blocks(rows), rows)
        promising = np.zeros(block.shape, dtype=bool)
        if n_a >= n_b:
            promising |= block >= column_floors.astype(block.dtype)
        if n_a <= n_b:
            floors = _largest(_group_maxima(block), PROMISING)
            row_floors[rows] = floors
            promising |= block >= floors[:, None]
        found = np.flatnonzero(promising)
        if len(found) > 8 * PROMISING * len(block):  # ties: nearly everything is as large as the best
            found = _thinned(found, np.zeros(len(found)), n_b, 2 * PROMISING)
            row_floors[rows], thinned = np.inf, True
        keys.append(found + rows.start * n_b)
        values.append(block[np.divmod(found, n_b)].astype(np.float64))
    if thinned:
        column_floors[:] = np.inf
    return Pairs(np.concatenate(keys), np.concatenate(values), row_floors, column_floors)


def chosen_pairs(blocks: Blocks, match: Int64[np.ndarray, " n_a"], n_b: int) -> tuple[Keys, Values]:
    """Key and similarity of one pair a row, with the column given; none where that is -1."""
    rows = (match >= 0).nonzero()[0]
    values = [blocks(rows[some])[np.arange(len(rows[some])), match[rows[some]]] for some in row_blocks(len(rows))]
    return rows * n_b + match[rows], np.concatenate(values).astype(np.float64)


def underpriced_pairs(
    blocks: Blocks, pairs: Pairs, row_prices: RowPrices, column_prices: ColumnPrices, *, most: int
) -> tuple[Keys, Values, RowPrices]:
    """Pairs not yet listed whose similarity exceeds the prices of their row and column, among all there are.

    A pair that is not listed is below its row's floor, so rows that are dearer than that need no look, nor do such
    columns. The others are screened in their own precision with a margin for rounding; what is near is worked out in
    float64.

    Returns:
        Keys and similarities of the worst pairs of every row, at most ``most`` of each; and by how much each row must
        be dearer for none of its pairs, listed or not, to be underpriced, at least 0.
    """
    n_a, n_b = pairs.shape
    scale = float(np.abs(row_prices).max() + np.abs(column_prices).max())
    tolerance = 1e-12 * scale  # float64 sums of some hundred prices
    missing = np.zeros(n_a)
    owners = pairs.rows
    np.maximum.at(missing, owners, pairs.values - row_prices[owners] - column_prices[pairs.columns])
    doubtful = (row_prices + column_prices.min() < pairs.row_floors).nonzero()[0]
    columns = (column_prices + row_prices.min() < pairs.column_floors).nonzero()[0]
    if len(columns) > n_b // 4:  # to pick them costs more than to look at all
        columns = np.arange(n_b)
    keys, values = [np.empty(0, dtype=np.int64)], [np.empty(0)]
    for some in row_blocks(len(doubtful) if len(columns) else 0):
        rows = doubtful[some]
        block = blocks(slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] < len(rows) else rows)
        block = block if len(columns) == n_b else block.take(columns, axis=1)
        margin = 4 * float(np.finfo(block.dtype).eps) * scale
        near = (
            block - column_prices[columns].astype(block.dtype)
            > (row_prices[rows] - margin).astype(block.dtype)[:, None]
        )
        place = np.flatnonzero(near)
        row, column = np.divmod(place, len(columns))
        key = rows[row] * n_b + columns[column]
        new = ~pairs.has(key)
        row, column, key = row[new], column[new], key[new]
        value = block[row, column].astype(np.float64)
        over = value - row_prices[rows[row]] - column_prices[columns[column]]
        np.maximum.at(missing, rows[row], over)
        key, value, over = (array[over > tolerance] for array in (key, value, over))
        worst = np.isin(key, _thinned(key, over, n_b, most), assume_unique=True)
        keys.append(key[worst])
        values.append(value[worst])
    return np.concatenate(keys), np.concatenate(values), missing


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


def _group_maxima(block: Block) -> Float[np.ndarray, "r groups"]:
    """The largest of every ``GROUPS``-th column, from each offset; the block itself where it has few columns."""
    size = block.shape[1] // GROUPS
    if size < 2:
        return block
    return block[:, : size * GROUPS].reshape(len(block), size, GROUPS).max(axis=1)


def _largest(values: Float[np.ndarray, "r s"], rank: int) -> Float[np.ndarray, " r"]:
    """Of each row the value of this rank, 1 the largest."""
    place = values.shape[1] - min(max(rank, 1), values.shape[1])
    return np.partition(values, place, axis=1)[:, place]


def _thinned(keys: Keys, scores: Values, n_b: int, most: int) -> Int64[np.ndarray, " q"]:
    """Of ascending keys, at most ``most`` a row: those of the highest score, ties by lot (of a fixed seed)."""
    if len(keys) <= most:
        return keys
    row = keys // n_b
    order = np.lexsort((np.random.default_rng(0).random(len(keys)), -scores, row))
    firsts = np.searchsorted(row, row)  # keys ascend, so each row's are together
    return np.sort(keys[order[np.arange(len(keys)) - firsts < most]])
