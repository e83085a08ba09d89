"""Beyond the paper: what two segmenters share by one crosscoder, and by matching their codes by function, with nulls.

The criterion of the paper compares weights, and calls a common seed shared (``shared``). Here both segmenters see the
same slices, and a latent is shared when one code decodes into both (`seglens.diffing.crosscoder`); the same is done
where there is nothing to share, and where everything is. An untrained network that sees the same slices shares a part
of it too, so every share is calibrated between that and one model twice; what a latent does to the classes of both
models (`seglens.diffing.crosscoder_effects`) is asked as well.

Drawn: ``summary`` as bars with intervals, one panel a pair.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import polars as pl
import torch

from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, Draft, finite
from seglens.cohorts.patients import other_slice_rows
from seglens.dictionaries.controls import PIXELS, UNTRAINED_NETWORK
from seglens.diffing.crosscoder import CROSSCODER_FIT, KIND, Crosscoder, fit_crosscoder
from seglens.diffing.crosscoder_effects import effect_agreement
from seglens.diffing.crosscoder_sharing import CrosscoderSharing, evaluate_crosscoder, linear_explained
from seglens.diffing.nulls import NULLS
from seglens.experiments.activation_cache import ActivationCache, ModelSide
from seglens.experiments.crosscoder_tables import (
    EFFECT_CONTROLS,
    EFFECTS,
    GRADIENTS,
    LINEAR,
    LONGER,
    PERMUTED,
    PERMUTED_PLACES,
    PLACES,
    REAL,
    SAME_POSITION,
    SEEDS,
    TWICE,
    calibrated,
    headlines,
    ladders_of,
    summarised,
    words_of,
)
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, part
from seglens.experiments.function import PROBE_SLICES, match_by_function
from seglens.experiments.pairs import pair_name, start_of
from seglens.reports.ladders import CONTROLS, ladder_rows
from seglens.runtime.progress import Progress
from seglens.studies.stages import Study
from seglens.studies.variants import RESEEDED

MAX_PAIRS = 4
TOKENS = {"train": 100_000, "test": 30_000}
"""Of each cohort, at most, in whole slices."""
EFFECT_TOKENS = 10_000
"""Of each cohort, at most, on which effects on the classes are measured."""
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
    usual = fits.filter(pl.col("steps") == CROSSCODER_FIT.steps)
    summary = summarised(usual)
    matched = pl.DataFrame(functional, infer_schema_length=None)
    longest = fits.filter(pl.col("pair") == first, pl.col("steps") != CROSSCODER_FIT.steps)
    starts = {pair_name(*pair): start_of(study.settings.segmenters, *pair) for pair in pairs}
    return ExperimentResult(
        {
            CONTROLS: ladder_rows(ladders_of(usual, first)),
            "calibrated": calibrated(summary),
            "summary": summary,
            "functional": matched,
            "longer fits": longest,
            "fits": fits,
        },
        headlines(summary, matched, longest, first),
        words_of(summary, matched, longest, starts),
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
    """Every fit: all pairs with their hardest nulls; the first with all nulls, longer, and one model twice."""
    first, *others = pairs
    hardest = (REAL, SAME_POSITION, UNTRAINED_NETWORK)
    every = (REAL, *NULLS, PIXELS, UNTRAINED_NETWORK, TWICE)
    plan = [(first, condition, seed, 1) for condition in every for seed in SEEDS]
    plan += [(first, condition, SEEDS[0], LONGER) for condition in hardest]
    return plan + [(pair, condition, seed, 1) for pair in others for condition in hardest for seed in SEEDS]


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


def _sides(kept: ActivationCache, fit: Fit) -> tuple[ModelSide, ModelSide]:
    """Both sides of a fit: what stands in the second's place follows from the condition."""
    (one, other), condition, seed, _ = fit
    first = kept.side(one)
    if condition == TWICE:
        return first, replace(first, name=one + AGAIN)
    if condition == UNTRAINED_NETWORK:
        return first, kept.untrained(other, seed)
    return first, kept.pixels(other) if condition == PIXELS else kept.side(other)


def _stores(kept: ActivationCache, fit: Fit, split: str, most_tokens: int) -> dict[str, ActivationStore]:
    """Activations of both sides of a fit on a split; those of the second are moved where the condition says so."""
    pair, condition, seed, _ = fit
    sides, grid = _sides(kept, fit), kept.common_grid(pair)
    stores = kept.stores(sides, kept.cohorts(pair), split, grid=grid, most_tokens=most_tokens)
    if condition in NULLS:
        moved = sides[1].name
        stores[moved] = NULLS[condition](stores[moved], seed=2 * seed + list(TOKENS).index(split))
    return stores


def _effects(kept: ActivationCache, fit: Fit, fitted: Crosscoder) -> dict[str, float | None]:
    """Agreement of the latents' effects on the classes that both sides have, or on the whole foreground; its controls.

    None where the second side is no network on the same slices; by the figure's name.
    """
    pair, condition, _, _ = fit
    if condition not in (REAL, TWICE, UNTRAINED_NETWORK):
        return dict.fromkeys((EFFECTS, PLACES, *EFFECT_CONTROLS))
    sides, grid, cohorts = _sides(kept, fit), kept.common_grid(pair), kept.cohorts(pair)
    named = [{name: value for value, name in side.segmenter.labels.items() if value} for side in sides]
    common = [name for name in named[0] if name in named[1]]
    stores = _stores(kept, fit, "test", EFFECT_TOKENS)
    gradients = {}
    for side, values in zip(sides, named, strict=True):
        asked: list[int | None] = [values[name] for name in common] or [None]
        grids = kept.gradients(side, asked, cohorts, "test", grid=grid, most_tokens=EFFECT_TOKENS)
        gradients[side.name] = [one.flatten(0, 3) for one in grids]
    tokens = {name: store.tokens(torch.arange(store.n_tokens)) for name, store in stores.items()}
    found = effect_agreement(fitted, tokens, gradients)
    return {
        EFFECTS: finite(found.signed),
        PLACES: finite(found.places),
        PERMUTED: finite(found.permuted),
        PERMUTED_PLACES: finite(found.permuted_places),
        GRADIENTS: finite(found.gradients),
    }


def _fitted(study: Study, kept: ActivationCache, fit: Fit) -> Artifact:
    """A crosscoder, with what it finds in the test slices: figures.json, latents and explained.parquet."""
    pair, condition, seed, longer = fit
    names, cohorts = [pair[0]] if condition == TWICE else list(pair), kept.cohorts(pair)
    settings = replace(CROSSCODER_FIT, steps=longer * CROSSCODER_FIT.steps)

    def make(draft: Draft, progress: Progress) -> None:
        training = _stores(kept, fit, "train", TOKENS["train"])
        crosscoder = fit_crosscoder(training, settings=settings, seed=seed, device=study.device, progress=progress)
        evaluated = evaluate_crosscoder(crosscoder, _stores(kept, fit, "test", TOKENS["test"]))
        crosscoder.write(draft)
        draft.save_table("latents", evaluated.latents())
        draft.save_table("explained", evaluated.explained)
        draft.save_document("figures", figures_of(evaluated) | _effects(kept, fit, crosscoder))

    inputs = {
        "segmenters": [study.segmenter(name).hash for name in names],
        "hookpoints": [study.hookpoint(name) for name in names],
        "slices": [study.slices(cohort).hash for cohort in cohorts],
        "tokens": {**TOKENS, "effects, places and their controls": EFFECT_TOKENS},
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
        stores = _stores(kept, fit, "test", TOKENS["test"])
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


EXPERIMENT = Experiment(
    name="crosscoder",
    title="One code for two segmenters, and what it calls shared where nothing is",
    paper="beyond the paper",
    run=run,
    version=5,
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
            caption="Mean over three seeds of the fit and its standard error, on test patients. Permuted tokens, white "
            "noise and another slice hold nothing to share but, for the same position, anatomy. Of the untrained "
            "network every seed is another draw: what it shares is what the same image alone gives.",
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
        Figure(
            "bars",
            "summary",
            "Agreement of what latents do to the classes of both",
            x="condition",
            y="mean",
            panel="pair",
            low="low",
            high="high",
            caption="Cosine of the effects of the same latents on the same classes at the same tokens: 0 where a "
            "network knows nothing of the classes; in the table also of sizes alone, and both with permuted rows.",
            only={"figure": (EFFECTS,)},
        ),
        Figure("bars", "functional", "Matched by function", x="compared", y="correlation", panel="pair"),
    ),
    folded=("fits", "summary", "longer fits"),
)
