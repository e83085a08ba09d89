"""Tables and words of the experiment `label_free`, from the scores of its entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from seglens.artifacts import finite
from seglens.segmenters.intervals import interval_of, interval_over_fits, resampled
from seglens.segmenters.score_summary import CONVENTIONS
from seglens.segmenters.scoring import Scores
from seglens.steering.sweep import UNEDITED

AIM = 0.7
MIN_GAIN = 0.01
"""Below this gain of an oracle (pooled Dice) a share of it says nothing and is left empty."""
MAX_DROPPED = 0.05
"""Of more draws without a gain of the oracle, the interval would be of the other draws only, and is left empty."""
POLICY_ROWS = {
    "transfer": pl.String,
    "policy": pl.String,
    "side": pl.String,
    "chosen": pl.String,
    "parameters": pl.Int64,
    "seeds": pl.Int64,
    "class": pl.String,
    "figure": pl.String,
    "before": pl.Float64,
    "after": pl.Float64,
    "gain": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
KEPT_ROWS = {
    "transfer": pl.String,
    "policy": pl.String,
    "side": pl.String,
    "oracle": pl.String,
    "gain": pl.Float64,
    "oracle's gain": pl.Float64,
    "share kept": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


@dataclass(frozen=True)
class EntryRecord:
    """A policy or a baseline as it was judged; see `Entry`.

    Attributes:
        name: of the policy.
        side: ``edit``, ``baseline``, ``control``, ``oracle`` or ``candidate``.
        n_parameters: numbers fitted or chosen.
        interventions: names of its edits among the scores, one a seed.
        oracles: that it is held against.
        chosen: what it chose, in words.
    """

    name: str
    side: str
    n_parameters: int
    interventions: tuple[str, ...]
    oracles: tuple[str, ...]
    chosen: str


def policy_rows(scores: Scores, entries: Sequence[EntryRecord], transfer: str, label: str) -> pl.DataFrame:
    """One row an entry, class and Dice convention: before, after (mean over seeds), gain and its interval."""
    n_patients, rows = scores.table["patient"].n_unique(), []
    for entry in entries:
        for class_name in (label, "foreground"):
            for figure in CONVENTIONS:
                values, drawn = resampled(scores, [UNEDITED, *entry.interventions], class_name, figure)
                gained = interval_over_fits(values[1:] - values[0], drawn[1:] - drawn[0], n_patients)
                rows.append(
                    {
                        "transfer": transfer,
                        "policy": entry.name,
                        "side": entry.side,
                        "chosen": entry.chosen,
                        "parameters": entry.n_parameters,
                        "seeds": len(entry.interventions),
                        "class": class_name,
                        "figure": figure,
                        "before": finite(float(values[0])),
                        "after": finite(float(values[1:].mean())),
                        "gain": finite(gained.value),
                        "low": finite(gained.low),
                        "high": finite(gained.high),
                    }
                )
    return pl.DataFrame(rows, schema=POLICY_ROWS)


def kept_rows(scores: Scores, entries: Sequence[EntryRecord], transfer: str) -> pl.DataFrame:
    """Share of an oracle's gain in pooled foreground Dice that each policy keeps, with its interval over patients.

    Empty where the oracle gains less than `MIN_GAIN`. Draws in which it gains nothing have no share and are left
    out; where they are more than `MAX_DROPPED` of all, low and high are empty.
    """
    oracles = {entry.name: entry.interventions for entry in entries if entry.side == "oracle"}
    n_patients, rows = scores.table["patient"].n_unique(), []
    for entry in entries:
        for oracle in entry.oracles:
            own = entry.interventions
            values, drawn = resampled(scores, [UNEDITED, *own, *oracles[oracle]])
            gain, gains = _gains(values, drawn, slice(1, 1 + len(own)))
            best, bests = _gains(values, drawn, slice(1 + len(own), None))
            share = gain / best if best >= MIN_GAIN else float("nan")
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.where(bests > 0, gains / bests, np.nan)
            interval = interval_of(share, shares, n_patients)
            known = finite(share) is not None and interval.n_draws >= (1 - MAX_DROPPED) * len(shares)
            rows.append(
                {
                    "transfer": transfer,
                    "policy": entry.name,
                    "side": entry.side,
                    "oracle": oracle,
                    "gain": gain,
                    "oracle's gain": best,
                    "share kept": finite(share),
                    "low": finite(interval.low) if known else None,
                    "high": finite(interval.high) if known else None,
                }
            )
    return pl.DataFrame(rows, schema=KEPT_ROWS)


def headlines(kept: pl.DataFrame) -> dict[str, float | None]:
    """For each kind of oracle, the edit that keeps the largest mean share over the transfers, and that share.

    The keys say of how many edits it is the best, and over how many transfers.
    """
    found: dict[str, float | None] = {}
    for row in best_rows(kept).iter_rows(named=True):
        best = f"the best of {row['edits']} edits over {row['transfers']} of {row['of']} transfers: {row['policy']}"
        found[f"share of {row['oracle']} kept by {best}, mean"] = row["mean share"]
        found[f"share of {row['oracle']} kept by {best}, smallest"] = row["smallest share"]
    return found


def best_rows(kept: pl.DataFrame) -> pl.DataFrame:
    """One row an oracle: the edit with the largest mean share of those judged in most transfers (``edits``).

    ``of`` counts all transfers: in those that are not among ``transfers`` the oracle gains too little to have a share
    of.
    """
    shares = (
        kept.filter((pl.col("side") == "edit") & pl.col("share kept").is_not_null())
        .group_by("oracle", "policy", maintain_order=True)
        .agg(
            pl.col("share kept").mean().alias("mean share"),
            pl.col("share kept").min().alias("smallest share"),
            pl.len().alias("transfers"),
        )
    )
    most = pl.col("transfers") == pl.col("transfers").max().over("oracle")
    ranked = (
        shares.filter(most)
        .with_columns(pl.len().over("oracle").alias("edits"), pl.lit(kept["transfer"].n_unique()).alias("of"))
        .sort("oracle", "mean share", descending=[False, True])
    )
    return ranked.unique("oracle", keep="first", maintain_order=True)


def paragraphs(policies: pl.DataFrame, kept: pl.DataFrame) -> list[str]:
    """Describe what was done, what it shows, and what it does not."""
    words = [
        "A policy sees images of the target cohort's selection patients, never a mask of that cohort, and labelled "
        "slices of the cohort that its own network was trained on (for the atlas its val and test slices). It is "
        "judged on other patients of the target cohort. An oracle sees the very masks that it is judged on; the share "
        "of its gain (pooled Dice, mean of the foreground classes) that a policy keeps is left empty where the oracle "
        f"gains less than {MIN_GAIN:g}. Draws of patients in which the oracle gains nothing have no share and are "
        f"left out of its interval; where they are more than {MAX_DROPPED:.0%} of the draws, the interval would be of "
        "the others only, and is left empty.",
    ]
    for row in best_rows(kept).iter_rows(named=True):
        others = row["of"] - row["transfers"]
        verdict = "reaches" if row["mean share"] >= AIM and not others else "misses"
        words.append(
            f"Against the oracle \u201c{row['oracle']}\u201d, \u201c{row['policy']}\u201d keeps most of "
            f"{row['edits']} edits: {row['mean share']:.0%} of the gain on average over {row['transfers']} of "
            f"{row['of']} transfers, {row['smallest share']:.0%} at worst. "
            + (f"In the other {others} that oracle gains less than {MIN_GAIN:g}. " if others else "")
            + f"It {verdict} the aim of {AIM:.0%}."
        )
    main = policies.filter((pl.col("class") == "foreground") & (pl.col("figure") == "dice_pooled"))
    for side, noun in (("edit", "edit"), ("baseline", "baseline")):
        sure = main.filter((pl.col("side") == side) & (pl.col("low") > 0))
        harmed = main.filter((pl.col("side") == side) & (pl.col("high") < 0))
        count = main.filter(pl.col("side") == side).height
        words.append(
            f"Of {count} judgements of a label-free {noun} (one a policy and transfer), {sure.height} gain and "
            f"{harmed.height} lose by more than the interval over patients (and seeds, where a transfer has several)."
        )
    words.append(
        "Oracles differ in what they may choose. That of a policy's strength picks one of a few strengths of that very "
        "policy, that of the grid one edit of the grid: shares of those say how well a policy picks, not how much "
        "latents can do. Latents fitted to the masks judged on, in as many steps as fitted policies, say that."
    )
    words.append(
        "What is not chosen here (rates of fits, the spread of contrasts) was fixed on phantoms in other transfers: "
        "SSA to adult, SSA to pediatric and pediatric to SSA, other pairs of the same cohorts."
    )
    words.append(
        "The policy named for an oracle is the best of several on these transfers, so its share is the upper end of "
        "what one would have got by naming a policy before. Learning rates of entropy minimisation and TENT were "
        "chosen by validation on the restyled source slices; an intervention whose predicted foreground collapses or "
        "floods on the unlabelled images is answered with the untouched network."
    )
    return words


def _gains(values: np.ndarray, drawn: np.ndarray, places: slice) -> tuple[float, np.ndarray]:
    """Gain over the untouched network, mean over seeds: on the patients as they are, and in each draw."""
    return float(values[places].mean() - values[0]), drawn[places].mean(0) - drawn[0]
