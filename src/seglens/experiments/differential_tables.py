"""Tables and words of the ladder of controls of the experiment `differential`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from seglens.artifacts import finite
from seglens.dictionaries.controls import (
    DENSE,
    LENS,
    PIXELS,
    RANDOM_LATENTS,
    SHUFFLED,
    UNTRAINED_DICTIONARY,
    UNTRAINED_NETWORK,
    Ladder,
    LeftOut,
)
from seglens.experiments.differential_bench import FACTORS, NONE
from seglens.experiments.differential_controls import CHANNELS, RUNG_OF, WEIGHTED

DRAWN = {name: rung for name, rung in RUNG_OF.items() if rung == UNTRAINED_NETWORK}
"""Draws of an untrained network to its rung."""


def summary_of(rows: pl.DataFrame, dice: pl.DataFrame) -> pl.DataFrame:
    """One row for features and draw: factors found, of those that cost Dice and of the others, and how they answer.

    Args:
        rows: of `Controls.rows`.
        dice: of `Controls.dice`.

    Returns:
        Columns features, draw, found, found that cost Dice, found that do not, called where nothing differs, within,
        between (means over the factors, 0.5 for one that is not found), and order of costs: Spearman's correlation,
        over the factors, of how far the called features answer (|between - 0.5|) with what the factor costs in Dice.
        Random latents find nothing, they are matched to what was found: their counts are null.
    """
    from scipy.stats import spearmanr

    costs = rows.filter(pl.col("factor") != NONE).join(dice, on="factor", how="left", maintain_order="left")
    nothing = {
        (row["features"], row["draw"]): row["called"] for row in rows.filter(pl.col("factor") == NONE).to_dicts()
    }
    found = []
    for (features, draw), own in costs.group_by("features", "draw", maintain_order=True):
        hit, answer = own["called"] > 0, (own["between"] - 0.5).abs().to_numpy()
        matched = str(features).startswith(RANDOM_LATENTS)
        varied = own.height > 2 and np.ptp(answer) > 0
        found.append(
            {
                "features": features,
                "draw": draw,
                "found": None if matched else int(hit.sum()),
                "found that cost Dice": None if matched else int((hit & own["costs Dice"]).sum()),
                "found that do not": None if matched else int((hit & ~own["costs Dice"]).sum()),
                "called where nothing differs": None if matched else nothing.get((features, draw)),
                "within": own["within"].mean(),
                "between": own["between"].mean(),
                "order of costs": finite(spearmanr(answer, own["cost"].to_numpy()).statistic) if varied else None,
            }
        )
    return pl.DataFrame(found, infer_schema_length=None)


def ladders_of(summary: pl.DataFrame) -> list[Ladder[float | None]]:
    """The claims that the lens finds factors, that what it finds answers, and that it orders them by cost."""

    def values(features: Sequence[str], column: str) -> list[float | None]:
        found: list[float | None] = summary.filter(pl.col("features").is_in(list(features)))[column].to_list()
        return [None if value is None else float(value) for value in found]

    ladders = []
    for column in ("found", "found that cost Dice", "within", "between", "order of costs"):
        rungs: dict[str, Sequence[float | None] | LeftOut] = {
            rung: values([name for name, of in RUNG_OF.items() if of == rung], column)
            for rung in dict.fromkeys(RUNG_OF.values())
        }
        rungs[SHUFFLED] = values([SHUFFLED], column)
        matched = LeftOut("they are matched to what was found")
        rungs[RANDOM_LATENTS] = matched if column.startswith("found") else values([RANDOM_LATENTS], column)
        ladders.append(Ladder(f"planted factors, {column}", values([LENS], column)[0], rungs))
    by_effect = [values([features + WEIGHTED], "order of costs") for features in (LENS, CHANNELS, PIXELS)]
    backward = LeftOut("not computed by effect: it takes a backward pass of its own through every cohort")
    ladders.append(
        Ladder(
            f"planted factors, order of costs{WEIGHTED}",
            by_effect[0][0],
            {
                UNTRAINED_NETWORK: backward,
                UNTRAINED_DICTIONARY: backward,
                DENSE: by_effect[1],
                PIXELS: by_effect[2],
                SHUFFLED: values([SHUFFLED + WEIGHTED], "order of costs"),
                RANDOM_LATENTS: values([RANDOM_LATENTS + WEIGHTED], "order of costs"),
            },
        )
    )
    return ladders


def words_of(summary: pl.DataFrame, dice: pl.DataFrame) -> list[str]:
    """Say what the controls find beside the lens."""
    alone = (
        summary.with_columns(pl.col("features").replace(DRAWN))
        .group_by("features", maintain_order=True)
        .agg(pl.col("found", "within", "order of costs").mean())
    )
    by_name = {row["features"]: row for row in alone.iter_rows(named=True)}
    listed = ", ".join(
        f"{name} {row['found']:.1f} ({row['within']:.2f} within patients)"
        for name, row in by_name.items()
        if row["found"] is not None
    )
    beside = "; ".join(
        f"{name}, {_compared(by_name[name], by_name[LENS])}" for name in (UNTRAINED_NETWORK, CHANNELS, PIXELS)
    )
    costly = dice.filter("costs Dice")["factor"].to_list()
    order = [
        f"{name} {row['order of costs']:.2f}" for name, row in by_name.items() if row["order of costs"] is not None
    ]
    return [
        f"The same test on what knows less of the model, factors found of {len(FACTORS) - 1}: {listed}. Beside the "
        f"lens: {beside}. No interval stands beside these figures, so near ones are not told apart. What pixels or an "
        "untrained network find as well says that the two populations of images differ, and nothing of the model; what "
        "channels find as well needs no dictionary. As many latents as were called, drawn from all that fire as often "
        f"and as strongly, answer at {by_name[RANDOM_LATENTS]['within']:.2f} within patients.",
        f"What the model's output depends on: {', '.join(costly) or 'none'} of the factors cost the segmenter Dice in "
        "held-out patients (signed-rank test); over the factors, Spearman's correlation of how far the called features "
        f"answer with what the factor costs: {', '.join(order)}. With so few factors such a correlation is coarse: "
        "below 0.79 it is no more than chance.",
    ]


def _compared(features: Mapping[str, Any], lens: Mapping[str, Any]) -> str:
    """How features stand beside the lens, by the figures as they are printed."""
    if round(features["found"], 1) < round(lens["found"], 1):
        return "fewer factors"
    weaker = round(features["within"], 2) < round(lens["within"], 2)
    return "as many factors or more, but weaker" if weaker else "as many factors or more, and as strong"
