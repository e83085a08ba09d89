"""Claims beside their controls: one table, in one order, for every page."""

from collections.abc import Sequence

import polars as pl

from seglens.artifacts import finite
from seglens.dictionaries.controls import LENS, RUNGS, Ladder, LeftOut
from seglens.reports.blocks import Cell, Table, head, table
from seglens.reports.wording import number, plain

CONTROLS = "controls"
"""Name of the table of ladders among an experiment's."""
SCHEMA = {
    "claim": pl.String,
    "features": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "draws": pl.Int64,
    "left out": pl.String,
}
NOTE = (
    "The same computation on the lens and on what knows nothing of what the model has learnt, or less of it: an "
    "untrained network with a dictionary of its own, an untrained dictionary, channels and principal components, pixel "
    "statistics, the lens with a broken correspondence, and random latents matched by firing rate and activation mass. "
    "A claim about what the model has learnt holds only as far as the lens is beyond all of them. Of several draws: "
    "mean, and least to largest."
)


def ladder_rows(ladders: Sequence[Ladder[float | None]]) -> pl.DataFrame:
    """A row a claim and features: mean, low and high over the draws, how many, or why it is left out."""
    rows: list[dict[str, str | float]] = []
    for ladder in ladders:
        for features, found in ladder:
            row: dict[str, str | float] = {"claim": ladder.claim, "features": features}
            if isinstance(found, LeftOut):
                rows.append(row | {"left out": found.reason})
                continue
            known = [value for one in found if (value := finite(one)) is not None]
            figures = {"mean": sum(known) / len(known), "low": min(known), "high": max(known)} if known else {}
            rows.append(row | figures | {"draws": len(known)})
    return pl.DataFrame(rows, schema=SCHEMA)


def ladder_table(rows: pl.DataFrame) -> Table:
    """Print claims beside their controls.

    Args:
        rows: of `ladder_rows`.
    """
    shown, reasons = [], []
    for (claim,), own in rows.group_by("claim", maintain_order=True):
        by_features = {row["features"]: row for row in own.iter_rows(named=True)}
        cells: list[Cell | str] = [head(plain(str(claim)))]
        for features in (LENS, *RUNGS):
            row = by_features[features]
            spread = f"{number(row['low'])} to {number(row['high'])}" if (row["draws"] or 0) > 1 else ""
            cells.append(Cell("left out" if row["left out"] else number(row["mean"]), spread))
            if row["left out"]:
                reasons.append(f"{features}: {row['left out']}")
        shown.append(cells)
    left_out = f" Left out: {'; '.join(dict.fromkeys(reasons))}." if reasons else ""
    return table("Beside its controls", ("claim", LENS, *RUNGS), shown, NOTE + left_out)
