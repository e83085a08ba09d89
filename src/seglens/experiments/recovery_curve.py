"""Shares of failures that are recovered, over the gain from which a slice counts, beside random latents.

The paper states no threshold. Where any gain counts, the best of five edits by a slice's own mask recovers most slices
of whatever latents: a share says something only beside that of matched random latents at the same threshold.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from seglens.artifacts import finite
from seglens.segmenters.intervals import mean_interval, share_interval

THRESHOLDS = (0.0, 0.01, 0.02, 0.05, 0.1)
"""Gains in a slice's Dice: more than the first, at least the others."""


def gained(gain: pl.Series, threshold: float) -> pl.Series:
    """Slices that are recovered: any gain at 0, else at least the threshold."""
    return gain > 0 if threshold == 0 else gain >= threshold


def curve_rows(
    before: pl.Series, after: pl.Series, random: Sequence[pl.Series], patients: Sequence[str], *, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a threshold: the share recovered, that of random latents, and their difference over patients.

    Args:
        before: Dice of each failing slice.
        after: Dice with the edit.
        random: Dice with matched random latents that follow the same policy, one a draw; their mean stands beside.
        patients: of each slice.
        seed: of the bootstrap.

    Returns:
        Rows of threshold, slices, best Dice and mean Dice before, recovered share, low, high, random share, difference,
        difference low and high, and whether the interval of the difference lies above 0 ("more than random"); what
        random latents would give is None without any.
    """
    rows = []
    for threshold in THRESHOLDS:
        hits = gained(after - before, threshold)
        share = share_interval(list(patients), hits.to_list(), seed=seed)
        row: dict[str, Any] = {
            "threshold": threshold,
            "slices": len(before),
            "best Dice before": max(before.to_list()),
            "mean Dice before": float(before.sum()) / len(before),
            "recovered share": share.value,
            "low": finite(share.low),
            "high": finite(share.high),
            **dict.fromkeys(RANDOM_COLUMNS),
        }
        if random:
            draws = [gained(draw - before, threshold).cast(pl.Float64).alias(str(n)) for n, draw in enumerate(random)]
            control = pl.DataFrame(draws).select(pl.mean_horizontal(pl.all())).to_series()
            over = mean_interval(list(patients), (hits.cast(pl.Float64) - control).to_list(), seed=seed)
            mean = float(control.sum()) / len(control)
            values = (mean, over.value, finite(over.low), finite(over.high), over.low > 0)
            row |= dict(zip(RANDOM_COLUMNS, values, strict=True))
        rows.append(row)
    return rows


RANDOM_COLUMNS = ("random share", "difference", "difference low", "difference high", "more than random")


def paragraph(rows: Sequence[dict[str, Any]], words: str) -> str:
    """One sentence on a curve: the shares at any gain and at .05, each beside random latents.

    Args:
        rows: of `curve_rows`.
        words: what was done to what, such as ``"adult, oracle"``.
    """
    parts = []
    for row in (rows[THRESHOLDS.index(0.0)], rows[THRESHOLDS.index(0.05)]):
        threshold = "at any gain" if row["threshold"] == 0 else f"at a gain of {row['threshold']:g} or more"
        text = f"{row['recovered share']:.0%} {threshold}"
        if row["random share"] is not None:
            beside = "more than" if row["more than random"] else "not told from"
            text += f", {beside} random latents ({row['random share']:.0%})"
        parts.append(text)
    first = rows[0]
    return (
        f"{words}: of {first['slices']} slices (best Dice {first['best Dice before']:.2f}, mean "
        f"{first['mean Dice before']:.2f}) {'; '.join(parts)}."
    )
