"""Tables and words of the experiment `crosscoder`: shares beside nulls, calibrated, and on the ladder of controls."""

from collections.abc import Mapping

import polars as pl

from seglens.dictionaries.controls import (
    DENSE,
    PIXELS,
    RANDOM_LATENTS,
    SHUFFLED,
    UNTRAINED_DICTIONARY,
    UNTRAINED_NETWORK,
    Ladder,
    LeftOut,
)
from seglens.diffing.nulls import NULLS

REAL, TWICE, SAME_POSITION = "same slices", "one model twice", "another slice at the same position"
NOTHING_SHARED = (*NULLS, PIXELS, UNTRAINED_NETWORK)
"""Conditions in which the two sides have learnt nothing in common."""
SEEDS = (0, 1, 2)
"""Of the fits; with an untrained network each is another draw of it."""
LONGER = 3
"""Times the usual steps, with one seed, to see what the length of the fit does."""
LINEAR = "linear prediction without the code"
EFFECTS = "agreement of effects on the classes"
PLACES = "same places of effects on the classes"
PERMUTED, PERMUTED_PLACES = f"{EFFECTS}, permuted rows", f"{PLACES}, permuted rows"
GRADIENTS = "same places of the gradients alone"
EFFECT_CONTROLS = (PERMUTED, PERMUTED_PLACES, GRADIENTS)
"""Of the effects, where the second model's rows are dealt to other latents, and without any latent."""
CALIBRATED = ("shared", "shared by activation mass", "cross-reconstruction", EFFECTS, PLACES)
"""Figures that are calibrated between the untrained network and one model twice."""


def calibrated(summary: pl.DataFrame) -> pl.DataFrame:
    """Figures of the pairs between those of an untrained network (0) and of one model twice (1).

    One model twice is of the first pair; its model stands in every pair.

    Returns:
        Columns pair, figure, untrained, real, twice, calibrated (null where twice is not above untrained) and error (of
        calibrated, from the standard errors of real and untrained).
    """
    rows = []
    for figure in CALIBRATED:
        own = summary.filter(pl.col("figure") == figure)
        twice = own.filter(pl.col("condition") == TWICE)["mean"].to_list()
        for pair in own["pair"].unique(maintain_order=True):
            sides = {row["condition"]: row for row in own.filter(pl.col("pair") == pair).iter_rows(named=True)}
            real, untrained = sides.get(REAL), sides.get(UNTRAINED_NETWORK)
            if real is None or untrained is None or not twice:
                continue
            low, value, high = untrained["mean"], real["mean"], twice[0]
            known = None not in (low, value, high) and high > low
            error = ((real["standard error"] or 0.0) ** 2 + (untrained["standard error"] or 0.0) ** 2) ** 0.5
            rows.append(
                {
                    "pair": pair,
                    "figure": figure,
                    "untrained": low,
                    "real": value,
                    "twice": high,
                    "calibrated": (value - low) / (high - low) if known else None,
                    "error": error / (high - low) if known else None,
                }
            )
    numbers = dict.fromkeys(("untrained", "real", "twice", "calibrated", "error"), pl.Float64)
    return pl.DataFrame(rows, schema={"pair": pl.String, "figure": pl.String, **numbers})


def ladders_of(fits: pl.DataFrame, first: str) -> list[Ladder[float | None]]:
    """Figures of the first pair, each beside every control.

    Args:
        fits: a row a pair, condition, seed and figure, of one length of the fit.
        first: name of the pair.
    """

    def values(condition: str, figure: str) -> list[float | None]:
        own = fits.filter(pl.col("pair") == first, pl.col("condition") == condition, pl.col("figure") == figure)
        return own["value"].to_list() or [None]

    no_code, none_chosen = LeftOut("channels have no common code"), LeftOut("every live latent counts, none is chosen")
    dense = {"cross-reconstruction": values(REAL, LINEAR), PLACES: values(REAL, GRADIENTS)}
    permuted = {EFFECTS: values(REAL, PERMUTED), PLACES: values(REAL, PERMUTED_PLACES)}
    ladders = []
    for figure in CALIBRATED:
        of_effects = figure in (EFFECTS, PLACES)
        known = [value for value in values(REAL, figure) if value is not None]
        no_classes = LeftOut("pixels have no classes")
        no_network = LeftOut("the gradients of another patient's slice are no effects on this one's")
        ladders.append(
            Ladder(
                f"{first}, {figure}",
                sum(known) / len(known) if known else None,
                {
                    UNTRAINED_NETWORK: values(UNTRAINED_NETWORK, figure),
                    UNTRAINED_DICTIONARY: LeftOut("as it is drawn every latent decodes into one model"),
                    DENSE: dense.get(figure, no_code),
                    PIXELS: no_classes if of_effects else values(PIXELS, figure),
                    SHUFFLED: no_network if of_effects else values(SAME_POSITION, figure),
                    RANDOM_LATENTS: permuted.get(figure, none_chosen),
                },
            )
        )
    return ladders


def summarised(fits: pl.DataFrame) -> pl.DataFrame:
    """Of every pair, condition and figure: mean, its standard error over the fits, and mean less and plus that."""
    value = pl.col("value")
    return (
        fits.group_by("pair", "condition", "figure", maintain_order=True)
        .agg(
            value.mean().alias("mean"),
            (value.std() / value.count().sqrt()).alias("standard error"),
            value.count().alias("fits"),
        )
        .with_columns(
            (pl.col("mean") - pl.col("standard error")).alias("low"),
            (pl.col("mean") + pl.col("standard error")).alias("high"),
        )
    )


def errors_above_nulls(summary: pl.DataFrame, pair: str, figure: str = "shared") -> float | None:
    """By how many standard errors of the difference a pair is above the highest of its nulls; None without an error."""
    table = summary.filter(pl.col("pair") == pair, pl.col("figure") == figure).sort("mean")
    real = table.filter(pl.col("condition") == REAL)
    nulls = table.filter(pl.col("condition").is_in(NOTHING_SHARED))
    if not (real.height and nulls.height):
        return None
    difference = real["mean"][0] - nulls["mean"][-1]
    error = ((real["standard error"][0] or 0.0) ** 2 + (nulls["standard error"][-1] or 0.0) ** 2) ** 0.5
    return difference / error if error > 0 else None


def headlines(
    summary: pl.DataFrame, functional: pl.DataFrame, longest: pl.DataFrame, first: str
) -> dict[str, float | None]:
    """Shares and cross-reconstruction of the pairs, of the first pair's nulls and of one model twice."""
    found: dict[str, float | None] = {}
    figures = ("shared", "shared after latent scaling", "cross-reconstruction", LINEAR, EFFECTS, PLACES)
    for figure in (*figures, *EFFECT_CONTROLS):
        for row in summary.filter(pl.col("figure") == figure).iter_rows(named=True):
            if row["condition"] == REAL:
                found[f"{figure}, {row['pair']}"] = row["mean"]
            elif row["pair"] == first:
                found[f"{figure}, {row['condition']}"] = row["mean"]
    for row in calibrated(summary).iter_rows(named=True):
        found[f"{row['figure']}, calibrated, {row['pair']}"] = row["calibrated"]
    found["shared, highest null of any pair"] = _highest_null(summary, "shared")
    above = [errors_above_nulls(summary, pair) for pair in summary["pair"].unique(maintain_order=True)]
    known = [value for value in above if value is not None]
    found["standard errors above the highest null, least of the pairs"] = min(known) if known else None
    for row in longest.filter(pl.col("figure") == "shared").iter_rows(named=True):
        found[f"shared, {row['condition']}, {LONGER} times the steps"] = row["value"]
    for row in functional.filter(pl.col("pair") == first).iter_rows(named=True):
        found[f"correlation matched by function, {row['compared']}"] = row["correlation"]
    return found


def _highest_null(summary: pl.DataFrame, figure: str) -> float | None:
    nulls = summary.filter(pl.col("condition").is_in(NOTHING_SHARED), pl.col("figure") == figure)["mean"].drop_nulls()
    return float(nulls.to_numpy().max()) if len(nulls) else None


def words_of(
    summary: pl.DataFrame, functional: pl.DataFrame, longest: pl.DataFrame, starts: Mapping[str, str]
) -> list[str]:
    """Say what was done and what it shows; ``starts``: each pair, the first one first, to its segmenters' starts."""
    first = next(iter(starts))

    def value(condition: str, figure: str, pair: str) -> float | None:
        own = summary.filter(pl.col("pair") == pair, pl.col("condition") == condition, pl.col("figure") == figure)
        found: list[float | None] = own["mean"].to_list()
        return found[0] if found else None

    def mean(condition: str, figure: str = "shared", pair: str = first) -> str:
        found = value(condition, figure, pair)
        return "undefined" if found is None else f"{100 * found:.1f}%"

    def cosine(condition: str, figure: str, pair: str) -> str:
        found = value(condition, figure, pair)
        return "undefined" if found is None else f"{found:.2f}"

    above = {pair: errors_above_nulls(summary, pair) for pair in starts}
    listed = "; ".join(
        f"{pair}, from {start}, {mean(REAL, pair=pair)}"
        + (f" ({above[pair]:.0f} standard errors above its highest null)" if above[pair] is not None else "")
        for pair, start in starts.items()
    )
    nulls = ", ".join(f"{mean(null)} with {null}" for null in (*NULLS, PIXELS))
    untrained = "; ".join(
        f"{pair}: {mean(UNTRAINED_NETWORK, pair=pair)}, and by effects on the classes "
        f"{cosine(REAL, EFFECTS, pair)} beside {cosine(UNTRAINED_NETWORK, EFFECTS, pair)}"
        for pair in starts
    )
    moved = "; ".join(
        f"{pair}: effects {cosine(REAL, EFFECTS, pair)} beside {cosine(REAL, PERMUTED, pair)}, places "
        f"{cosine(REAL, PLACES, pair)} beside {cosine(REAL, PERMUTED_PLACES, pair)}, and "
        f"{cosine(REAL, GRADIENTS, pair)} of the gradients alone"
        for pair in starts
    )
    left = "; ".join(
        f"{row['figure']} of {row['pair']} {row['calibrated']:.2f}"
        for row in calibrated(summary).iter_rows(named=True)
        if row["calibrated"] is not None
    )
    longer = {row["condition"]: row["value"] for row in longest.filter(pl.col("figure") == "shared").to_dicts()}
    by_function = {row["compared"]: row for row in functional.filter(pl.col("pair") == first).to_dicts()}
    matched = ", ".join(f"{row['correlation']:.2f} for {name}" for name, row in by_function.items())
    return [
        "Both segmenters see the slices of both training cohorts; their activations are whitened and put side by side, "
        "and one BatchTopK code is fitted to both. At the start half of the latents decode into one segmenter only and "
        "half into the other, so a latent is shared only if the fit made it so. It counts as shared where its relative "
        "decoder norm is 0.3 to 0.7. Everything is judged on test patients, over latents that fire at more than 1 in "
        f"1000 tokens; means over {len(SEEDS)} seeds of the fit.",
        f"Where there is nothing to share ({first}, the second side replaced) the method calls shared: {nulls}. One "
        f"model twice: {mean(TWICE)}. The real pairs: {listed}. Standard errors are over fits, not over segmenters.",
        f"With an untrained network of the second's architecture on the same slices, three draws: {untrained}. A "
        "network that has learnt nothing shares this much because it looks at the same image, so a share says what "
        "two models have learnt in common only from there up. Calibrated between the untrained network (0) and one "
        f"model twice (1): {left}. Agreement of effects is the cosine, over tokens, latents and the classes that both "
        "have, of what ablating a latent does to the expected pixels of a class in each model, to first order; that of "
        "same places looks at the sizes of these effects alone. Both models are given one code, and gradients of any "
        "two networks are large at the same borders, so sizes agree in part whatever the latents do. Beside the same "
        "with the second model's decoder rows dealt to other latents, and beside the lengths of the gradients without "
        f"any latent: {moved}. What the two models do with what they share is alike only as far as it is above all of "
        "these and the untrained network's.",
        "The code of one segmenter alone, the other's activation first predicted from it linearly, explains of the "
        f"other {mean(REAL, 'cross-reconstruction')} of the whitened variance for {first}, and "
        f"{mean(SAME_POSITION, 'cross-reconstruction')} where the slices are another patient's. Without the code the "
        f"linear prediction explains {mean(REAL, LINEAR)} and {mean(SAME_POSITION, LINEAR)}: cross-reconstruction "
        "says how much of a linear relation the code keeps, not that the code found one.",
        f"Of {first}, {mean(REAL, 'specific')} of the live latents are specific by their norm, and "
        f"{mean(REAL, 'specific after latent scaling')} after latent scaling, which gives a row that was only shrunk "
        "back: where the second is smaller, the rest was called specific for its shrinkage alone. Scaling finds more "
        f"in nulls too: {mean(SAME_POSITION, 'shared after latent scaling')} shared with another slice at the same "
        f"position, beside {mean(REAL, 'shared after latent scaling')}. By activation mass "
        f"{mean(REAL, 'shared by activation mass')} are shared, by ablation gain "
        f"{mean(REAL, 'shared by ablation gain')}. Longer fits merge more: after {LONGER} times the steps "
        + ", ".join(f"{100 * value:.1f}% with {name}" for name, value in longer.items() if value is not None)
        + ". So a share means something beside its nulls and at equal settings only.",
        f"Matching the segmenters' own dictionaries by function (mean correlation of codes, {first}): {matched}. An "
        "optimal matching finds something in noise too, and anatomy gives the same position something in common in "
        "any two heads, so these figures count from their nulls up.",
        "These are phantoms or few patients, small segmenters and short trainings; nothing here says how much two "
        "clinical models share.",
    ]
