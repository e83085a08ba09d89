"""Tables and words of the experiment `adaptation`, from the scores of its methods."""

from collections.abc import Mapping, Sequence

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
CHOSEN_EDIT = "chosen edit"
"""The edit that the inner split of the labelled patients chose, draw by draw."""
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
    "upper bound (best baseline on these patients)": pl.String,
    "improvement over the upper bound": pl.Float64,
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
    "upper bound (best baseline on these patients)": pl.String,
    "improvement over the upper bound": pl.Float64,
    "bound low": pl.Float64,
    "bound high": pl.Float64,
}


def policy_rows(scores: Scores, methods: Sequence[InterventionRecord], transfer: str, label: str) -> pl.DataFrame:
    """One row a method, class and figure: the mean over seeds, with its interval over patients and seeds.

    ``fits`` are the values of the seeds, ``draws`` those of each on the same draws of patients.
    """
    known = {one.name: one for one in methods}
    known = {name: InterventionRecord(name, side, 0, (name,)) for name, side in EXTRA.items()} | known
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

    Baseline and ``chosen`` edit are chosen alike: each is the one with the highest Dice in the inner split of the
    selection patients (edits of `RANKED` left out), so the intervals follow no selection on the patients judged on.
    The upper bound is the baseline with the highest value on these very patients, which nobody could have chosen; its
    interval chooses it anew in each draw of patients.
    """
    found = []
    for (name, class_name, figure), group in rows.group_by("transfer", "class", "figure", maintain_order=True):
        known = group.filter(pl.col("value").is_not_null())
        baselines = known.filter(pl.col("side") == "baseline")
        inner = baselines.filter(pl.col("inner_dice").is_not_null())
        if inner.is_empty():
            continue
        best = inner.sort("inner_dice", "policy", descending=[True, False]).row(0, named=True)
        highest = baselines.sort("value", "policy", descending=[True, False]).row(0, named=True)
        fitted = known.filter(
            (pl.col("side") == "edit") & pl.col("inner_dice").is_not_null() & ~pl.col("policy").is_in(list(RANKED))
        )
        chosen = fitted.sort("inner_dice", "policy", descending=[True, False])["policy"].to_list()[:1]
        # of every baseline the mean over its fits, on the same draws of patients
        in_draws = np.stack([np.asarray(draws).mean(axis=0) for draws in baselines["draws"].to_list()]).max(axis=0)
        for edit in known.filter(pl.col("side") == "edit").iter_rows(named=True):
            values, drawn = (_less(edit[kind], best[kind]) for kind in ("fits", "draws"))
            interval = interval_over_fits(values, drawn, edit["patients"])
            bound = interval_over_fits(
                np.asarray(edit["fits"]) - highest["value"], np.asarray(edit["draws"]) - in_draws, edit["patients"]
            )
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
                    "upper bound (best baseline on these patients)": highest["policy"],
                    "improvement over the upper bound": bound.value,
                    "bound low": finite(bound.low),
                    "bound high": finite(bound.high),
                }
            )
    return pl.DataFrame(found, schema=IMPROVEMENTS)


def _less(values: object, others: object) -> np.ndarray:
    """Fit by fit where there are as many; else from the mean of the others' fits."""
    own, theirs = np.asarray(values), np.asarray(others)
    return np.asarray(own - (theirs if len(theirs) == len(own) else theirs.mean(axis=0)))


def curve_rows(scores: Scores, inner: Mapping[str, float | None], transfer: str) -> pl.DataFrame:
    """One row a number of labelled patients and method: foreground pooled Dice, and what the best baseline lacks to it.

    Means over the draws of patients (with all patients: over seeds), with intervals over evaluation patients and draws
    (`interval_over_fits`). In every draw the baseline with the highest Dice in the inner split of the labelled patients
    is the best, and the edit with the highest is `CHOSEN_EDIT`. The upper bound is the baseline with the highest value
    on the patients judged on; the untouched network is among them at every number: a fit to one patient may be worse
    than none.

    Args:
        scores: of edits named ``size draw policy``.
        inner: Dice of these in the inner split; what has none is not chosen.
        transfer: name.
    """
    named: dict[tuple[int, str], dict[str, str]] = {}
    for edit in scores.table["edit"].unique(maintain_order=True):
        if edit != UNEDITED:
            size, draw, policy = edit.split(" ", 2)
            named.setdefault((int(size), policy), {})[draw] = edit
    sizes = sorted({size for size, _ in named})
    best: dict[int, dict[str, str]] = {}
    for size in sizes:
        there = {policy: edits for (other, policy), edits in named.items() if other == size}
        best[size] = _chosen_by_draw(there, inner, "baseline")
        if edits := _chosen_by_draw(there, inner, "edit"):
            named[size, CHOSEN_EDIT] = edits
        named[size, UNEDITED] = {"": UNEDITED}
    figures = {key: resampled(scores, list(edits.values())) for key, edits in named.items()}
    n_patients = scores.table["patient"].n_unique()
    rows = []
    for (size, policy), (values, drawn) in sorted(figures.items()):
        baselines = [own for other, own in figures if other == size and _side(own) == "baseline"]
        highest = max(baselines, key=lambda own: float(figures[size, own][0].mean()))
        others, others_drawn = figures[size, highest]
        bound = interval_over_fits(_less(values, others), _less(drawn, others_drawn), n_patients)
        own = interval_over_fits(values, drawn, n_patients)
        rows.append(
            {
                "transfer": transfer,
                "labelled patients": size,
                "policy": policy,
                "side": _side(policy),
                "draws": len(named[size, policy]),
                "dice_pooled": own.value,
                "median": float(np.median(values)),
                "low": finite(own.low),
                "high": finite(own.high),
                **_improvement(scores, named[size, policy], best[size], n_patients),
                "upper bound (best baseline on these patients)": highest,
                "improvement over the upper bound": bound.value,
            }
        )
    return pl.DataFrame(rows, schema=CURVE_ROWS)


def _improvement(
    scores: Scores, edits: Mapping[str, str], best: Mapping[str, str], n_patients: int
) -> dict[str, object]:
    """Over the baseline that each draw chose; None where none could be chosen."""
    pairs = [
        (edit, baseline) for draw, edit in edits.items() for other, baseline in best.items() if draw in (other, "")
    ]
    if not pairs:
        return dict.fromkeys(("best baseline", "improvement", "improvement low", "improvement high"))
    values, drawn = resampled(scores, [edit for pair in pairs for edit in pair])
    improvement = interval_over_fits(values[::2] - values[1::2], drawn[::2] - drawn[1::2], n_patients)
    policies = sorted({baseline.split(" ", 2)[2] for _, baseline in pairs})
    return {
        "best baseline": " or ".join(policies),
        "improvement": improvement.value,
        "improvement low": finite(improvement.low),
        "improvement high": finite(improvement.high),
    }


def _chosen_by_draw(
    policies: Mapping[str, Mapping[str, str]], inner: Mapping[str, float | None], side: str
) -> dict[str, str]:
    """In each draw the policy of a side with the highest Dice in the inner split."""
    best: dict[str, tuple[float, str]] = {}
    for policy, edits in sorted(policies.items()):
        for draw, edit in edits.items():
            value = inner.get(edit)
            if _side(policy) == side and value is not None and (draw not in best or value > best[draw][0]):
                best[draw] = value, edit
    return {draw: edit for draw, (_, edit) in best.items()}


def _side(policy: str) -> str:
    return "edit" if policy == CHOSEN_EDIT else side_of(policy)


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
    for row in _few(curve).iter_rows(named=True):
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
        "split. Edit and best baseline named below are those that did best in that split. The upper bound is the "
        "baseline with the highest value on the evaluation patients, chosen after the fact and so too good: its "
        "interval chooses it anew in each draw. Intervals hold what "
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
            f"{row['improvement']:+.3f} {_bracket(row['low'], row['high'])} pooled foreground Dice; "
            f"over the upper bound ({row['upper bound (best baseline on these patients)']}, chosen after the fact): "
            f"{row['improvement over the upper bound']:+.3f} {_bracket(row['bound low'], row['bound high'])}."
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
        "settings of a single patient are chosen by slice. Edit and baseline are those that the inner split of each "
        "draw's own patients chose."
    )
    for row in _few(curve).iter_rows(named=True):
        words.append(
            f"{row['transfer']}, {row['labelled patients']} labelled patient{'s' * (row['labelled patients'] > 1)}: "
            f"{row['policy']} against "
            f"{row['best baseline']}: {row['improvement']:+.3f} "
            f"{_bracket(row['improvement low'], row['improvement high'])}."
        )
    words.append("Alphas are a description, never a selection.")
    return words


def _few(curve: pl.DataFrame) -> pl.DataFrame:
    """The chosen edit at every number of labelled patients."""
    rows = curve.filter((pl.col("policy") == CHOSEN_EDIT) & pl.col("improvement").is_not_null())
    return rows.sort("transfer", "labelled patients")


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "is judged on one patient and so not told from"
    return "beats" if low > 0 else "falls behind" if high < 0 else "cannot be told from"


def _bracket(low: float | None, high: float | None) -> str:
    return "[no interval]" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
