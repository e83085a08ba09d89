"""Table 3 and Figure 6: the worst slices of every cohort's own segmenter, and how many of them an edit recovers.

The paper states no criterion of recovery, so the share is a curve over it, with matched random latents beside every
point; and its "cases" can only be slices (1,251 volumes cannot have 2,844 failures of edema among them). The worst of
good slices are no failures: beside the 60 worst stand those of them whose Dice is low.
"""

import re
from collections.abc import Sequence

import polars as pl

from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, Published
from seglens.experiments.recovery_curve import curve_rows, paragraph
from seglens.experiments.segmenters import require_lesions
from seglens.runtime.progress import Progress
from seglens.segmenters.intervals import mean_interval, share_interval
from seglens.steering.failure_recovery import PAPER_ALPHAS, FailureResult
from seglens.studies.stages import Study

WORST = 60
MIN_GAIN = 0.05
METHODS = {
    "ccf": "component filter (CCF)",
    "uf": "entropy filter (UF)",
    "logit_bias": "logit bias",
    "drop_class": "drop a class",
    "ccf_untuned": "largest component (CCF, untuned)",
    "mean_ablation": "whole activation at its mean",
    "reconstruct_only": "reconstruction only",
    "held_out": "latents, held-out",
    "random": "random latents, held-out",
    "oracle": "latents, oracle",
    "random oracle": "random latents, oracle",
}
"""Column of a failure's slices (without ``dice_``) to what tables call it, in the order of the page; of random latents
the start of its draws' columns."""
FAILS_BELOW = 0.5
WORST_ONES, LOW = f"worst {WORST}", f"worst {WORST}, Dice below {FAILS_BELOW:g}"
POLICIES = {"oracle": "random oracle", "held_out": "random"}


def run(study: Study, progress: Progress) -> ExperimentResult:
    """Each cohort with lesions by the first segmenter that was trained on it."""
    names = require_lesions(study)
    tables, curves, alphas, facts, words_of = [], [], [], [], []
    for number, name in enumerate(names):
        cohort = study.settings.segmenters[name].cohort
        found = FailureResult.read(study.result("failures", name, cohort, WORST))
        label = pl.lit(cohort).alias("cohort")
        tables.append(recovered(found.slices).select(label, pl.all()))
        alphas.append(over_alpha(found.slices).select(label, pl.all()))
        own = recovery_curve(found.slices)
        curves.append(own.select(label, pl.all()))
        for (failures, policy), rows in own.group_by("failures", "policy", maintain_order=True):
            words_of.append(paragraph(rows.to_dicts(), f"{cohort}, {failures}, {policy}"))
        facts.append(
            {
                "cohort": cohort,
                "slices": found.slices.height,
                "patients": found.slices["patient"].n_unique(),
                "of slices with a lesion": found.results[0].n_eligible,
                "edit chosen held-out": found.results[0].edit,
            }
        )
        progress(number + 1, len(names))
    table = pl.concat(tables)
    words = [
        f"The {WORST} slices of each cohort's test patients with the lowest foreground Dice (fewer where there are "
        f"fewer). In the first table a slice is recovered when its Dice rises by at least {MIN_GAIN:g}; the recovery "
        "curve gives every threshold, since the paper states none. Intervals are over patients (bootstrap, 95%), since "
        "slices of one patient are alike. Random latents, the mean over their draws, are matched by firing and mass.",
        "Oracle: each slice's five most active latents, and the alpha of 0.25, 0.5, 1, 2, 5 that is best for that "
        "slice's own mask, as far as the paper says how it chose. Picking the best of five by the mask raises the mean "
        "for random latents too, which stand beside it. Held-out: one edit, chosen on other patients, as a deployment "
        "would have to.",
        *words_of,
    ]
    left_out = ["Label-free policies: the experiment label_free compares them."]
    curve = pl.concat(curves)
    tables_of = {
        "recovered": table,
        "recovery curve": curve,
        "over alpha": pl.concat(alphas),
        "failing slices": pl.DataFrame(facts),
    }
    return ExperimentResult(tables_of, headlines(table) | curve_headlines(curve), words, left_out)


def recovered(slices: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Mean Dice and recovered share of every method, the share with its interval over patients.

    Args:
        slices: of a FailureResult: patient, dice_before and a column ``dice_<method>`` each.
        seed: of the bootstrap.
    """
    before, patients = slices["dice_before"], slices["patient"].to_list()
    rows = [_row("untouched", before, [before], patients, seed)]
    rows += [
        _row(words, before, draws, patients, seed)
        for name, words in METHODS.items()
        if (draws := draws_of(slices, name))
    ]
    return pl.DataFrame(rows)


def draws_of(slices: pl.DataFrame, name: str) -> list[pl.Series]:
    """Dice of a method's slices, of random latents one column a draw; empty where there is none."""
    wanted = re.compile(rf"dice_{re.escape(name)}" + (r" \d+" if name.startswith("random") else ""))
    return [slices[column] for column in slices.columns if wanted.fullmatch(column)]


def _row(
    method: str, before: pl.Series, draws: Sequence[pl.Series], patients: list[str], seed: int
) -> dict[str, object]:
    """Means over the draws; of one draw a share has the interval of a share."""
    gains = [after - before for after in draws]
    n = len(before) * len(draws)
    if len(draws) == 1:
        share = share_interval(patients, (gains[0] >= MIN_GAIN).to_list(), seed=seed)
    else:
        hits = pl.DataFrame([(gain >= MIN_GAIN).cast(pl.Float64).alias(str(d)) for d, gain in enumerate(gains)])
        share = mean_interval(patients, hits.mean_horizontal().to_list(), seed=seed)
    return {
        "method": method,
        "slices": len(before),
        "best Dice before": max(before.to_list()),
        "mean Dice": sum(float(after.sum()) for after in draws) / n,
        "gain": sum(float(gain.sum()) for gain in gains) / n,
        "recovered share": share.value,
        "low": share.low,
        "high": share.high,
        "worsened share": sum(int((gain <= -MIN_GAIN).sum()) for gain in gains) / n,
    }


def recovery_curve(slices: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Recovered share over the threshold of gain, of both policies and both meanings of failure.

    Args:
        slices: of a FailureResult.
        seed: of the bootstrap.
    """
    rows = []
    for failures, own in ((WORST_ONES, slices), (LOW, slices.filter(pl.col("dice_before") < FAILS_BELOW))):
        for policy, random in POLICIES.items():
            if own.is_empty() or f"dice_{policy}" not in own.columns:
                continue
            patients = own["patient"].to_list()
            found = curve_rows(own["dice_before"], own[f"dice_{policy}"], draws_of(own, random), patients, seed=seed)
            rows += [{"failures": failures, "policy": policy.replace("_", "-"), **row} for row in found]
    return pl.DataFrame(rows, infer_schema_length=None)


def curve_headlines(curve: pl.DataFrame) -> dict[str, float | None]:
    """Shares of the oracle and of its random latents where any gain counts: what the paper's share is read as."""
    found: dict[str, float | None] = {}
    rows = curve.filter(
        (pl.col("threshold") == 0) & (pl.col("policy") == "oracle") & (pl.col("failures") == WORST_ONES)
    )
    for row in rows.iter_rows(named=True):
        found[f"recovered share at any gain, latents, oracle, {row['cohort']}"] = row["recovered share"]
        found[f"recovered share at any gain, random latents, oracle, {row['cohort']}"] = row["random share"]
    return found


def over_alpha(slices: pl.DataFrame) -> pl.DataFrame:
    """Mean Dice and recovered share at each of the paper's alphas, the same for all slices."""
    before = slices["dice_before"]
    rows = []
    for kind, prefix in (("each slice's most active latents", "oracle"), ("random latents", "random oracle 0")):
        for alpha in PAPER_ALPHAS:
            column = "dice_before" if alpha == 1 else f"dice_{prefix} {alpha:g}"
            if column in slices.columns:
                after = slices[column]
                gained = float((after - before >= MIN_GAIN).sum()) / len(after)
                mean = float(after.sum()) / len(after)
                rows.append({"latents": kind, "alpha": alpha, "mean Dice": mean, "recovered share": gained})
    return pl.DataFrame(rows)


def headlines(table: pl.DataFrame) -> dict[str, float | None]:
    """Mean Dice before and after, and recovered shares, of the policies and their control."""
    wanted = ("untouched", "latents, held-out", "latents, oracle", "random latents, oracle", "logit bias")
    rows = [row for row in table.iter_rows(named=True) if row["method"] in wanted]
    found: dict[str, float | None] = {f"mean Dice, {row['method']}, {row['cohort']}": row["mean Dice"] for row in rows}
    return found | {
        f"recovered share, {row['method']}, {row['cohort']}": row["recovered share"]
        for row in rows
        if row["method"] != "untouched"
    }


_DICE = "Table 3; presumably with background (0.25 is what it alone gives of four classes); ours is foreground only"
_SHARE = "section 6.1; which rise counts as recovery is not said"
EXPERIMENT = Experiment(
    "failures",
    "Recovering the worst slices",
    "Table 3 and Figure 6",
    run,
    figures=(
        Figure(
            "bars",
            "recovered",
            "Share of the worst slices that is recovered",
            x="method",
            y="recovered share",
            low="low",
            high="high",
            panel="cohort",
            only={"method": [words for words in METHODS.values() if words != "drop a class"]},
            caption="Whiskers: 95% over patients. Random latents follow the same rule as the row above them.",
        ),
        Figure(
            "lines",
            "recovery curve",
            "Share of the worst slices that is recovered, over the gain that counts, less that of random latents",
            x="threshold",
            y="difference",
            series="policy",
            panel="cohort",
            only={"failures": [WORST_ONES]},
            caption="A difference of 0: no more than random latents. The paper states no threshold.",
        ),
        Figure(
            "lines",
            "over alpha",
            "Mean Dice of the worst slices when their most active latents are multiplied by alpha",
            x="alpha",
            y="mean Dice",
            series="latents",
            panel="cohort",
        ),
    ),
    published={
        "mean Dice, untouched, adult": Published(0.253, _DICE),
        "mean Dice, untouched, pediatric": Published(0.588, _DICE),
        "mean Dice, untouched, ssa": Published(0.592, _DICE),
        "mean Dice, latents, oracle, adult": Published(0.430, _DICE),
        "mean Dice, latents, oracle, pediatric": Published(0.620, _DICE),
        "mean Dice, latents, oracle, ssa": Published(0.638, _DICE),
        "recovered share at any gain, latents, oracle, adult": Published(0.706, _SHARE),
        "recovered share at any gain, latents, oracle, pediatric": Published(0.600, _SHARE),
        "recovered share at any gain, latents, oracle, ssa": Published(0.633, _SHARE),
    },
    folded=("recovery curve", "over alpha"),
    version=4,
)
