"""Tables of figures as they are: digits that part the values, long ones closed."""

import polars as pl

from seglens.artifacts import finite
from seglens.reports.blocks import Block, Fold, Table, head, table
from seglens.reports.experiment_figures import written
from seglens.reports.wording import plain, plural

SHORT = 14
"""Rows of a table that is shown open."""
MAX_ROWS = 200
"""Rows of a table on the page; the file holds all."""


def table_block(name: str, rows: pl.DataFrame, *, folded: bool = False) -> Block:
    """Show a table of figures; a long one is closed until the reader opens it.

    Args:
        name: of the table, and of its file.
        rows: the table; the first column and those of words stand left.
        folded: closed even where it is short.
    """
    shown = rows.head(MAX_ROWS)
    words = {
        column
        for place, column in enumerate(rows.columns)
        if place == 0 or not (rows[column].dtype.is_numeric() or rows[column].dtype == pl.Null)
    }
    digits = {column: _digits(rows[column]) for column in rows.columns if rows[column].dtype.is_float()}
    cells = [
        tuple(
            head(written(value)) if column in words else written(value, digits.get(column, 2))
            for column, value in row.items()
        )
        for row in shown.iter_rows(named=True)
    ]
    note = f"The first {MAX_ROWS} of {rows.height} rows; {name}.parquet holds all." if rows.height > MAX_ROWS else ""
    block: Table = table(plain(name), [plain(column) for column in rows.columns], cells, note)
    if rows.height > SHORT or folded:
        return Fold(f"Table: {plain(name)} ({plural(rows.height, 'row')})", (block,))
    return block


def _digits(column: pl.Series) -> int:
    """Digits that part the values of a column."""
    values = [abs(one) for value in column.to_list() if (one := finite(value)) is not None]
    largest = max(values, default=1.0)
    return 3 if largest < 0.2 else 2 if largest < 20 else 1
