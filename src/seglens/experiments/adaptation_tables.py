"""Tables and words of the experiment `adaptation`, from the scores of its methods."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from seglens.artifacts import finite
from seglens.segmenters.intervals import FIGURES, interval_over_fits, resampled
from seglens.segmenters.scoring import Scores
from seglens.steering.comparison import side_of
from seglens.steering.records import InterventionRecord
from seglens.steering.sweep import UNEDITED

ORACLE = "oracle_alpha"
EXTRA = {UNEDITED: "baseline", ORACLE: "oracle"}
LIKE_THE_PAPER = {UNEDITED: "untouched", "constant_edit": "constant edit", ORACLE: "best alpha a slice"}
"""Policies that stand beside Table 5, and what headlines call them."""
RANKED = ("top_latents",)
"""Edits whose latents were ranked on all selection patients, so that the inner split flatters them."""
POLICY_ROWS: dict[str, pl.DataType | type[pl.DataType]] = {
    "transfer": pl.String,
    "policy": pl.String,
    "side": pl.String,
    "parameters": pl.Int64,
    "seeds": pl.Int64,
    "class": pl.String,
    "figure": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "inner_dice": pl.Float64,
    "patients": pl.Int64,
    "fits": pl.List(pl.Float64),
    "draws": pl.List(pl.List(pl.Float64)),
}
CURVE_ROWS = {
    "transfer": pl.String,
    "labelled patients": pl.Int64,
    "policy": pl.String,
    "side": pl.String,
    "draws": pl.Int64,
    "dice_pooled": pl.Float64,
    "median": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "best baseline": pl.String,
    "improvement": pl.Float64,
    "improvement low": pl.Float64,
    "improvement high": pl.Float64,
}
IMPROVEMENTS = {
    "transfer": pl.String,
    "edit": pl.String,
    "edit parameters": pl.Int64,
    "chosen": pl.Boolean,
    "best baseline": pl.String,
    "baseline parameters": pl.Int64,
    "class": pl.String,
    "figure": pl.String,
    "improvement": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def policy_rows(scores: Scores, methods: Sequence[InterventionRecord], transfer: str, label: str) -> pl.DataFrame:
    """One row a method, class and figure: the mean over seeds, with its interval over patients and seeds.

    ``fits`` are the values of the seeds, ``draws`` those of each on the same draws of patients.
    """
    known = {one.name: one for one in methods}
    known |= {name: InterventionRecord(name, side, 0, (name,)) for name, side in EXTRA.items()}
    present = set(scores.table["edit"].unique())
    rows = []
    for one in known.values():
        if not set(one.interventions) <= present:
            continue
        for class_name in (label, "foreground"):
            for figure in FIGURES:
                values, drawn = resampled(scores, one.interventions, class_name, figure)
                interval = interval_over_fits(values, drawn, scores.table["patient"].n_unique())
                rows.append(
                    {
                        "transfer": transfer,
                        "policy": one.name,
                        "side": one.side,
                        "parameters": one.n_parameters,
                        "seeds": len(one.interventions),
                        "class": class_name,
                        "figure": figure,
                        "value": finite(interval.value),
                        "low": finite(interval.low),
                        "high": finite(interval.high),
                        "inner_dice": one.inner_dice,
                        "patients": interval.n_patients,
                        "fits": values.tolist(),
                        "draws": drawn.tolist(),
                    }
                )
    return pl.DataFrame(rows, schema=POLICY_ROWS)


def improvement_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Every edit against the best baseline of its transfer, class and figure, with the interval of the difference.

    The best baseline is the one with the highest value on the evaluation patients: the choice that is hardest to beat.
    The ``chosen`` edit is the fitted one with the highest Dice in the inner split of the selection patients, `RANKED`
    ones left out.
    """
    found = []
    for (name, class_name, figure), group in rows.group_by("transfer", "class", "figure", maintain_order=True):
        known = group.filter(pl.col("value").is_not_null())
        baselines = known.filter(pl.col("side") == "baseline").sort("value", "policy", descending=[True, False])
        if baselines.is_empty():
            continue
        best = baselines.row(0, named=True)
        fitted = known.filter(
            (pl.col("side") == "edit") & pl.col("inner_dice").is_not_null() & ~pl.col("policy").is_in(list(RANKED))
        )
        chosen = fitted.sort("inner_dice", "policy", descending=[True, False])["policy"].to_list()[:1]
        for edit in known.filter(pl.col("side") == "edit").iter_rows(named=True):
            values, drawn = (np.asarray(edit[kind]) - np.asarray(best[kind]) for kind in ("fits", "draws"))
            interval = interval_over_fits(values, drawn, edit["patients"])
            found.append(
                {
                    "transfer": name,
                    "edit": edit["policy"],
                    "edit parameters": edit["parameters"],
                    "chosen": edit["policy"] in chosen,
                    "best baseline": best["policy"],
                    "baseline parameters": best["parameters"],
                    "class": class_name,
                    "figure": figure,
                    "improvement": interval.value,
                    "low": finite(interval.low),
                    "high": finite(interval.high),
                }
            )
    return pl.DataFrame(found, schema=IMPROVEMENTS)


def curve_rows(scores: Scores, transfer: str) -> pl.DataFrame:
    """One row a number of labelled patients and method: foreground pooled Dice, and what the best baseline lacks to it.

    Means over the draws of patients (with all patients: over seeds), with intervals over evaluation patients and draws
    (`interval_over_fits`). The untouched network is a baseline at every number: a fit to one patient may be worse than
    none.
    """
    named: dict[tuple[int, str], list[str]] = {}
    for edit in scores.table["edit"].unique(maintain_order=True):
        if edit != UNEDITED:
            size, _, policy = edit.split(" ", 2)
            named.setdefault((int(size), policy), []).append(edit)
    for size in {size for size, _ in named}:
        named[size, UNEDITED] = [UNEDITED]
    figures = {key: resampled(scores, edits) for key, edits in named.items()}
    n_patients = scores.table["patient"].n_unique()
    rows = []
    for (size, policy), (values, drawn) in sorted(figures.items()):
        baselines = [own for other, own in figures if other == size and side_of(own) == "baseline"]
        best = max(baselines, key=lambda own: float(figures[size, own][0].mean()))
        baseline_values, baseline_drawn = figures[size, best]
        own = interval_over_fits(values, drawn, n_patients)
        improvement = interval_over_fits(values - baseline_values, drawn - baseline_drawn, n_patients)
        rows.append(
            {
                "transfer": transfer,
                "labelled patients": size,
                "policy": policy,
                "side": side_of(policy),
                "draws": len(named[size, policy]),
                "dice_pooled": own.value,
                "median": float(np.median(values)),
                "low": finite(own.low),
                "high": finite(own.high),
                "best baseline": best,
                "improvement": improvement.value,
                "improvement low": finite(improvement.low),
                "improvement high": finite(improvement.high),
            }
        )
    return pl.DataFrame(rows, schema=CURVE_ROWS)


def _main_improvements(improvements: pl.DataFrame) -> pl.DataFrame:
    """Of each transfer the improvement in pooled foreground Dice of the edit that the selection patients chose."""
    return improvements.filter(
        (pl.col("class") == "foreground") & (pl.col("figure") == "dice_pooled") & pl.col("chosen")
    )


def headlines(improvements: pl.DataFrame, curve: pl.DataFrame) -> dict[str, float | None]:
    """Improvement of the chosen edit over the best baseline by transfer, with interval; and with few patients."""
    found: dict[str, float | None] = {}
    for row in _main_improvements(improvements).sort("transfer").iter_rows(named=True):
        name = row["transfer"]
        found |= {
            f"improvement {name}": row["improvement"],
            f"improvement {name}, low": row["low"],
            f"improvement {name}, high": row["high"],
        }
    edits = curve.filter(pl.col("side") == "edit").sort("improvement", descending=True)
    for row in (
        edits.unique(["transfer", "labelled patients"], keep="first", maintain_order=True)
        .sort("transfer", "labelled patients")
        .iter_rows(named=True)
    ):
        name = f"improvement {row['transfer']}, {row['labelled patients']} patients"
        found |= {
            name: row["improvement"],
            f"{name}, low": row["improvement low"],
            f"{name}, high": row["improvement high"],
        }
    return found


def class_headlines(policies: pl.DataFrame) -> dict[str, float | None]:
    """Pooled Dice of the steered class, of what can stand beside the paper's Table 5."""
    rows = policies.filter(
        (pl.col("class") != "foreground")
        & (pl.col("figure") == "dice_pooled")
        & pl.col("policy").is_in(list(LIKE_THE_PAPER))
    ).sort("transfer", "policy")
    return {
        f"{row['class']} Dice (pooled), {LIKE_THE_PAPER[row['policy']]}, {row['transfer']}": row["value"]
        for row in rows.iter_rows(named=True)
    }


def paragraphs(improvements: pl.DataFrame, curve: pl.DataFrame, policies: pl.DataFrame, steps: int) -> list[str]:
    """Describe what was done and what it shows, whichever way it falls."""
    words = [
        "Everything that a policy is made of (latents, strength, loss, learning rate, penalty) was chosen on the "
        f"selection patients; fitted policies had the same patients, {steps} steps, three learning rates and one inner "
        "split. The edit named below is the fitted one that did best in that split; the best baseline is the one with "
        "the highest value on the evaluation patients, the choice that is hardest to beat. Intervals hold what "
        "evaluation patients and seeds leave open, for one segmenter, one dictionary and one set of selection "
        "patients; values are means over seeds, which change the order of batches and nothing else (fits of three "
        "times the steps have one).",
        "Controls: untrained_two_depths has dictionaries as they are drawn, so what it gains needs no fitted one; what "
        "was fitted once more in three times the steps is named so. whole_suffix is a ceiling with the same labels. "
        "Neither random latents for the constant edit nor test-time training stands here: see failures and label_free.",
    ]
    for row in _main_improvements(improvements).iter_rows(named=True):
        words.append(
            f"{row['transfer']}: the latent edit ({row['edit']}, {row['edit parameters']} numbers) "
            f"{_verdict(row['low'], row['high'])} the best baseline "
            f"({row['best baseline']}, {row['baseline parameters']}): "
            f"{row['improvement']:+.3f} {_bracket(row['low'], row['high'])} pooled foreground Dice."
        )
    main = policies.filter((pl.col("class") == "foreground") & (pl.col("figure") == "dice_pooled"))
    for (transfer,), group in main.group_by("transfer", maintain_order=True):
        beside = group.filter(pl.col("side").is_in(["control", "ceiling"]) & pl.col("value").is_not_null())
        figures = [f"{row['policy']} {row['value']:.3f}" for row in beside.iter_rows(named=True)]
        if figures:
            words.append(f"{transfer}, controls and ceiling: {', '.join(figures)}.")
    words.append(
        "With few labelled patients values are means over draws of them, as many as the table says (with all of them: "
        "over seeds). Intervals hold what evaluation patients and draws leave open, so two draws leave much; the "
        "settings of a single patient are chosen by slice. The untouched network is a baseline too."
    )
    few = curve.filter(pl.col("side") == "edit").sort("improvement", descending=True)
    for row in (
        few.unique(["transfer", "labelled patients"], keep="first", maintain_order=True)
        .sort("transfer", "labelled patients")
        .iter_rows(named=True)
    ):
        words.append(
            f"{row['transfer']}, {row['labelled patients']} labelled patient{'s' * (row['labelled patients'] > 1)}: "
            f"{row['policy']} against "
            f"{row['best baseline']}: {row['improvement']:+.3f} "
            f"{_bracket(row['improvement low'], row['improvement high'])}."
        )
    words.append("Alphas are a description, never a selection.")
    return words


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "is judged on one patient and so not told from"
    return "beats" if low > 0 else "falls behind" if high < 0 else "cannot be told from"


def _bracket(low: float | None, high: float | None) -> str:
    return "[no interval]" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
