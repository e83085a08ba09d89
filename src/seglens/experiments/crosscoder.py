"""Beyond the paper: what two segmenters share by one crosscoder, and by matching their codes by function, with nulls.

The criterion of the paper compares weights, and calls a common seed shared (``shared``). Here both segmenters see the
same slices, and a latent is shared when one code decodes into both (`seglens.diffing.crosscoder`); the same is done
where there is nothing to share, and where everything is.

Drawn: ``summary`` as bars with intervals, one panel a pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, Draft, finite
from seglens.cohorts.patients import other_slice_rows
from seglens.diffing.crosscoder import CROSSCODER_FIT, KIND, Crosscoder, fit_crosscoder
from seglens.diffing.crosscoder_sharing import CrosscoderSharing, evaluate_crosscoder, linear_explained
from seglens.diffing.nulls import NULLS
from seglens.experiments.activation_cache import ActivationCache
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, part
from seglens.experiments.function import PROBE_SLICES, match_by_function
from seglens.experiments.pairs import pair_name, start_of
from seglens.runtime.progress import Progress
from seglens.studies.stages import Study
from seglens.studies.variants import RESEEDED

SEEDS = (0, 1, 2)
MAX_PAIRS = 4
LONGER = 3
"""Times the usual steps, with one seed, to see what the length of the fit does."""
TOKENS = {"train": 100_000, "test": 30_000}
"""Of each cohort, at most, in whole slices."""
REAL, TWICE, SAME_POSITION = "same slices", "one model twice", "another slice at the same position"
LINEAR = "linear prediction without the code"
AGAIN = "'"
"""Follows a model's name where it stands on both sides."""

Pair = tuple[str, str]
Fit = tuple[Pair, str, int, int]
"""Pair, condition, seed, and how many times the usual steps."""


def run(study: Study, progress: Progress) -> ExperimentResult:
    """One segmenter with up to four others: crosscoder codes, and matching by function."""
    pairs, left_out = chosen_pairs(study)
    first, kept = pair_name(*pairs[0]), ActivationCache(study)
    plan = fits_of(pairs)
    rows: list[dict[str, Any]] = []
    functional: list[dict[str, Any]] = []
    for number, fit in enumerate(plan):
        (pair, condition, seed, longer), fitted = fit, _fitted(study, kept, fit)
        figures = fitted.record("figures", dict[str, float | None])
        if (seed, longer) == (SEEDS[0], 1):
            figures[LINEAR] = _linear(study, kept, fit, fitted)
        asked = {"pair": pair_name(*pair), "condition": condition, "seed": seed, "steps": longer * CROSSCODER_FIT.steps}
        rows += [asked | {"figure": name, "value": value} for name, value in figures.items()]
        progress(number + 1, len(plan) + len(pairs))
    for number, pair in enumerate(pairs):
        functional += _functional(study, kept, pair)
        progress(len(plan) + number + 1, len(plan) + len(pairs))
    fits = pl.DataFrame(rows, schema_overrides={"value": pl.Float64})
    summary = summarised(fits.filter(pl.col("steps") == CROSSCODER_FIT.steps))
    matched = pl.DataFrame(functional, infer_schema_length=None)
    longest = fits.filter(pl.col("pair") == first, pl.col("steps") != CROSSCODER_FIT.steps)
    starts = {pair_name(*pair): start_of(study.settings.segmenters, *pair) for pair in pairs}
    return ExperimentResult(
        {"summary": summary, "functional": matched, "longer fits": longest, "fits": fits},
        headlines(summary, matched, longest, first),
        _words(summary, matched, longest, starts),
        left_out,
    )


def chosen_pairs(study: Study) -> tuple[list[Pair], list[str]]:
    """The segmenter whose labels most others have, with each of them, those most like it first; and what is left out.

    Raises:
        NotApplicableError: only one segmenter, or too few patients for a null.
    """
    own = study.settings.segmenters
    if len(own) < 2:
        raise NotApplicableError(f"needs two segmenters on the same slices; the study has {', '.join(own)}")
    labels = {name: dict(study.segmenter(name).labels) for name in own}
    reference = max(own, key=lambda name: sum(labels[name] == other for other in labels.values()))

    def unlike(name: str) -> tuple[bool, bool]:
        return own[name].architecture != own[reference].architecture, labels[name] != labels[reference]

    pairs = [(reference, other) for other in sorted(own, key=unlike) if other != reference]
    for cohort in {own[name].cohort for pair in pairs for name in pair}:
        for split in TOKENS:
            try:
                other_slice_rows(study.slices(cohort).split(split).index)
            except ValueError as error:
                reason = f"needs other patients' slices for its null; {split} of {cohort}: {error}"
                raise NotApplicableError(reason) from None
    beyond = [pair_name(*pair) for pair in pairs[MAX_PAIRS:]]
    left_out = [f"{', '.join(beyond)}, for want of time"] if beyond else []
    if len(own) > 2:
        left_out.append(f"pairs without {reference}, for want of time (`fit_crosscoder` takes any two or more)")
    return pairs[:MAX_PAIRS], left_out


def fits_of(pairs: Sequence[Pair]) -> list[Fit]:
    """Every fit: all pairs with their hardest null; the first with all nulls, longer, and one model twice."""
    first, *others = pairs
    plan = [(first, condition, seed, 1) for condition in (REAL, *NULLS, TWICE) for seed in SEEDS]
    plan += [(first, condition, SEEDS[0], LONGER) for condition in (REAL, SAME_POSITION)]
    return plan + [
        (pair, condition, seed, 1) for pair in others for condition in (REAL, SAME_POSITION) for seed in SEEDS
    ]


def figures_of(evaluated: CrosscoderSharing) -> dict[str, float | None]:
    """Of one fit: shares of live latents and of variance, 0..1, and two counts."""
    source, target = evaluated.models

    def specific(by: Any) -> float | None:
        one, other = evaluated.specific(source, by=by), evaluated.specific(target, by=by)
        return None if one is None or other is None else one + other

    together = evaluated.explained.filter(pl.col("encoded_from") == "all")["explained_variance"]
    return {
        "shared": evaluated.shared(),
        "shared by activation mass": evaluated.shared("mass"),
        "shared by ablation gain": evaluated.shared("gain"),
        "shared after latent scaling": evaluated.shared(by="scaled"),
        "specific": specific("norm"),
        "specific after latent scaling": specific("scaled"),
        "cross-reconstruction": finite(evaluated.cross_explained()),
        "cross-reconstruction, raw": finite(evaluated.cross_explained(raw=True)),
        "explained variance": finite(sum(together) / len(together)),
        "live latents": float(evaluated.live.sum()),
        "active latents a token": finite(evaluated.l0),
        f"effective dimensions of {source}": evaluated.participation_ratio[source],
        f"effective dimensions of {target}": evaluated.participation_ratio[target],
    }


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
    nulls = table.filter(pl.col("condition").is_in(list(NULLS)))
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
    for figure in ("shared", "shared after latent scaling", "cross-reconstruction", LINEAR):
        for row in summary.filter(pl.col("figure") == figure).iter_rows(named=True):
            if row["condition"] == REAL:
                found[f"{figure}, {row['pair']}"] = row["mean"]
            elif row["pair"] == first:
                found[f"{figure}, {row['condition']}"] = row["mean"]
    found["shared, highest null of any pair"] = _highest_null(summary, "shared")
    above = [errors_above_nulls(summary, pair) for pair in summary["pair"].unique(maintain_order=True)]
    known = [value for value in above if value is not None]
    found["standard errors above the highest null, least of the pairs"] = min(known) if known else None
    for row in longest.filter(pl.col("figure") == "shared").iter_rows(named=True):
        found[f"shared, {row['condition']}, {LONGER} times the steps"] = row["value"]
    for row in functional.filter(pl.col("pair") == first).iter_rows(named=True):
        found[f"correlation matched by function, {row['compared']}"] = row["correlation"]
    return found


def _stores(study: Study, kept: ActivationCache, fit: Fit, split: str) -> dict[str, ActivationStore]:
    """Both sides of a fit on a split, the second replaced as the condition says."""
    pair, condition, seed, _ = fit
    names = [pair[0]] if condition == TWICE else list(pair)
    cohorts, grid = kept.cohorts(pair), kept.common_grid(pair)
    stores = kept.stores(names, cohorts, split, grid=grid, most_tokens=TOKENS[split])
    if condition == TWICE:
        stores[names[0] + AGAIN] = stores[names[0]]
    elif condition in NULLS:
        stores[pair[1]] = NULLS[condition](stores[pair[1]], seed=2 * seed + list(TOKENS).index(split))
    return stores


def _fitted(study: Study, kept: ActivationCache, fit: Fit) -> Artifact:
    """A crosscoder, with what it finds in the test slices: figures.json, latents and explained.parquet."""
    pair, condition, seed, longer = fit
    names, cohorts = [pair[0]] if condition == TWICE else list(pair), kept.cohorts(pair)
    settings = replace(CROSSCODER_FIT, steps=longer * CROSSCODER_FIT.steps)

    def make(draft: Draft, progress: Progress) -> None:
        training = _stores(study, kept, fit, "train")
        crosscoder = fit_crosscoder(training, settings=settings, seed=seed, device=study.device, progress=progress)
        evaluated = evaluate_crosscoder(crosscoder, _stores(study, kept, fit, "test"))
        crosscoder.write(draft)
        draft.save_table("latents", evaluated.latents())
        draft.save_table("explained", evaluated.explained)
        draft.save_document("figures", figures_of(evaluated))

    inputs = {
        "segmenters": [study.segmenter(name).hash for name in names],
        "hookpoints": [study.hookpoint(name) for name in names],
        "slices": [study.slices(cohort).hash for cohort in cohorts],
        "tokens": TOKENS,
        "condition": condition,
        "settings": asdict(settings),
        "seed": seed,
    }
    words = condition.replace(" ", "-")
    name = f"crosscoder/{'~'.join(pair)}-{words}-{seed}{f'-x{longer}' if longer > 1 else ''}"
    return part(study, name, KIND, inputs, make)


def _linear(study: Study, kept: ActivationCache, fit: Fit, fitted: Artifact) -> float | None:
    """Cross-reconstruction without the code; it follows from the slices alone, so one seed of a condition is enough."""

    def make(draft: Draft, progress: Progress) -> None:
        stores = _stores(study, kept, fit, "test")
        draft.save_document("linear", finite(linear_explained(Crosscoder.read(fitted), stores)))

    pair, condition, _, _ = fit
    name = f"crosscoder-linear/{'~'.join(pair)}-{condition.replace(' ', '-')}"
    value: float | None = part(study, name, "crosscoder_linear", {"crosscoder": fitted.hash}, make).document("linear")
    return value


def _functional(study: Study, kept: ActivationCache, pair: Pair) -> list[dict[str, Any]]:
    """Two segmenters' own dictionaries matched by function, with nulls."""

    def make(draft: Draft, progress: Progress) -> None:
        draft.save_table("functional", match_by_function(study, kept, pair))

    inputs = {
        "dictionaries": [study.dictionary(name).hash for name in pair],
        "slices": [study.slices(cohort).hash for cohort in kept.cohorts(pair)],
        "probes": PROBE_SLICES,
        "again": study.dictionary(pair[0], RESEEDED).hash if study.settings.dictionaries.controls else None,
    }
    table = part(study, f"functional/{'~'.join(pair)}", "functional", inputs, make).table("functional")
    return [{"pair": pair_name(*pair), **row} for row in table.to_dicts()]


def _highest_null(summary: pl.DataFrame, figure: str) -> float | None:
    nulls = summary.filter(pl.col("condition").is_in(list(NULLS)), pl.col("figure") == figure)["mean"].drop_nulls()
    return float(nulls.to_numpy().max()) if len(nulls) else None


def _words(
    summary: pl.DataFrame, functional: pl.DataFrame, longest: pl.DataFrame, starts: Mapping[str, str]
) -> list[str]:
    """Say what was done and what it shows; ``starts``: each pair, the first one first, to its segmenters' starts."""
    first = next(iter(starts))

    def mean(condition: str, figure: str = "shared", pair: str = first) -> str:
        found = summary.filter(pl.col("pair") == pair, pl.col("condition") == condition, pl.col("figure") == figure)[
            "mean"
        ]
        return f"{100 * found[0]:.1f}%" if len(found) and found[0] is not None else "undefined"

    above = {pair: errors_above_nulls(summary, pair) for pair in starts}
    listed = "; ".join(
        f"{pair}, from {start}, {mean(REAL, pair=pair)}"
        + (f" ({above[pair]:.0f} standard errors above its highest null)" if above[pair] is not None else "")
        for pair, start in starts.items()
    )
    nulls = ", ".join(f"{mean(null)} with {null}" for null in NULLS)
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


EXPERIMENT = Experiment(
    name="crosscoder",
    title="One code for two segmenters, and what it calls shared where nothing is",
    paper="beyond the paper",
    run=run,
    version=2,
    figures=(
        Figure(
            "bars",
            "summary",
            "Live latents called shared",
            x="condition",
            y="mean",
            panel="pair",
            low="low",
            high="high",
            caption="Mean over three seeds of the fit and its standard error, on test patients. The three nulls hold "
            "nothing to share but, for the same position, anatomy.",
            only={"figure": ("shared",)},
        ),
        Figure(
            "bars",
            "summary",
            "Cross-reconstruction: whitened variance of one segmenter that the code of the other explains",
            x="condition",
            y="mean",
            panel="pair",
            low="low",
            high="high",
            only={"figure": ("cross-reconstruction",)},
        ),
        Figure("bars", "functional", "Matched by function", x="compared", y="correlation", panel="pair"),
    ),
    folded=("fits", "summary", "longer fits"),
)
