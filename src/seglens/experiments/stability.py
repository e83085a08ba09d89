"""Stable dictionaries: how nearly two fits to the same model and data agree, for the plain fit and for three baselines.

The agreement of one model with itself is the ceiling of every comparison of two models, so a dictionary is as useful
for diffing as its ceiling is high. Beside it the null, the same recipe and seed on rotated activations: a common start
can make dictionaries agree that have nothing in common.

Drawn: ``stability`` as bars of the shared share and of the functional correlation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import polars as pl
import torch
from torch import Tensor

from seglens.activations.live import live_activations
from seglens.activations.store import ActivationStore
from seglens.artifacts import Draft
from seglens.cohorts.patients import other_slice_rows
from seglens.cohorts.slice_set import evenly_spaced
from seglens.dictionaries.archetypal import archetypal_points, fit_archetypal, started_at
from seglens.dictionaries.fitting import FitPlan, FitSettings, fit_dictionaries
from seglens.dictionaries.matryoshka import halved_prefixes, prefix_quality
from seglens.dictionaries.quality import dictionary_quality
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.consensus import consensus_latents, only_latents, recurring_latents
from seglens.diffing.functional import functional_alignment
from seglens.diffing.sharing import align
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, part
from seglens.runtime.progress import Progress
from seglens.shapes import grid_of
from seglens.studies.stages import Study
from seglens.studies.variants import ROTATED, alive_latents, variant_store

PROBE_SLICES = 100
CONSENSUS_OF = 3
CONSENSUS_R = 0.5
"""Correlation from which a latent of one seed has come back in another."""


@dataclass(frozen=True)
class Seeds:
    """Seeds in which two fits may differ.

    Attributes:
        weights: seed of the weights.
        order: of the order of the tokens.
        points: of the k-means points, where there are some.
    """

    weights: int = 0
    order: int = 0
    points: int = 0


Recipe = Callable[[ActivationStore, FitSettings, Seeds, str], SparseAutoencoder]
"""From activations, settings, seeds and a device to a dictionary."""


def plain(store: ActivationStore, settings: FitSettings, seeds: Seeds, device: str) -> SparseAutoencoder:
    """The plain fit."""
    return fit_dictionaries([FitPlan(store, settings, seeds.weights, seeds.order)], device=device)[0]


def nested(store: ActivationStore, settings: FitSettings, seeds: Seeds, device: str) -> SparseAutoencoder:
    """Matryoshka prefixes."""
    prefixes = halved_prefixes(settings.size(store.d_in, store.n_tokens).n_latents)
    return plain(store, replace(settings, prefixes=prefixes), seeds, device)


def from_points(store: ActivationStore, settings: FitSettings, seeds: Seeds, device: str) -> SparseAutoencoder:
    """Rows that begin at points of the data and are free thereafter: what the archetypal fit owes to its start."""
    points = archetypal_points(store, settings.size(store.d_in, store.n_tokens).n_latents, seed=seeds.points)
    start = started_at(points, store, settings, seeds.weights)
    return fit_dictionaries([FitPlan(store, settings, seeds.weights, seeds.order, start=start)], device=device)[0]


def archetypal(store: ActivationStore, settings: FitSettings, seeds: Seeds, device: str) -> SparseAutoencoder:
    """Rows in the relaxed hull of the data."""
    points = archetypal_points(store, settings.size(store.d_in, store.n_tokens).n_latents, seed=seeds.points)
    return fit_archetypal(
        store, settings=settings, points=points, seed=seeds.weights, order_seed=seeds.order, device=device
    )


RECIPES: Mapping[str, Recipe] = {
    "plain": plain,
    "plain from points": from_points,
    "archetypal": archetypal,
    "Matryoshka": nested,
}
ORDER, WEIGHTS, POINTS = "token order", "seed", "seed and points"
COMPARED: Sequence[tuple[str, str, Seeds]] = (
    ("plain", ORDER, Seeds(order=1)),
    ("plain", WEIGHTS, Seeds(weights=1, order=1)),
    ("plain from points", WEIGHTS, Seeds(weights=1, order=1)),
    ("plain from points", POINTS, Seeds(weights=1, order=1, points=1)),
    ("archetypal", WEIGHTS, Seeds(weights=1, order=1)),
    ("archetypal", POINTS, Seeds(weights=1, order=1, points=1)),
    ("Matryoshka", WEIGHTS, Seeds(weights=1, order=1)),
)
"""Recipe, in what the second fit differs, and its seeds; the first has all seeds 0."""


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """One segmenter's activations: those that dictionaries are fitted to, and those of unseen slices.

    Consensus latents are chosen on ``choosing``, tokens of val slices, and judged on those of test slices, ``probe``.
    ``elsewhere`` gives each probe slice one of another patient, at about the same depth.
    """

    study: Study
    name: str
    store: ActivationStore
    rotated: ActivationStore
    test: ActivationStore
    choosing: Tensor
    probe: Tensor
    per_slice: int
    elsewhere: Tensor

    def fit(self, recipe: str, seeds: Seeds, *, on_rotated: bool = False) -> tuple[SparseAutoencoder, Tensor]:
        """A dictionary as a part of its own, and which of its latents are alive."""
        own = self.study.dictionary_settings(self.name)
        settings = FitSettings(
            k=own.k,
            expansion=own.expansion,
            steps=own.steps,
            batch_size=own.batch_size,
            learning_rate=own.learning_rate,
        )
        store = self.rotated if on_rotated else self.store
        base = self.study.settings.seed
        seeds = Seeds(base + seeds.weights, base + seeds.order, seeds.points)

        def make(draft: Draft, progress: Progress) -> None:
            RECIPES[recipe](store, settings, seeds, self.study.device).write(draft)

        inputs = {
            "store": store.hash,
            "settings": own.model_dump(mode="json", exclude={"controls"}),
            "recipe": recipe,
            "seeds": [seeds.weights, seeds.order, seeds.points],
        }
        named = f"{recipe.replace(' ', '-')}-{seeds.weights}-{seeds.order}-{seeds.points}{'-rotated' * on_rotated}"
        made = part(self.study, f"stability-dictionary/{self.name}-{named}", "dictionary", inputs, make)
        dictionary = SparseAutoencoder.read(made)
        return dictionary, alive_latents(dictionary, store)

    def agreement(self, one: SparseAutoencoder, other: SparseAutoencoder) -> dict[str, Any]:
        """By function, beside the same at the same places of other patients' slices."""
        codes, others = one.encode(self.probe), other.encode(self.probe)
        found = functional_alignment(codes, others)
        slices = torch.arange(codes.n).reshape(-1, self.per_slice)
        elsewhere = others.rows(slices[self.elsewhere].reshape(-1))
        return {
            "correlation": found.mean_correlation,
            "correlation, other slices": functional_alignment(codes, elsewhere).mean_correlation,
            "correlated above 0.5": found.share_above(0.5),
        }

    def quality(self, dictionary: SparseAutoencoder) -> dict[str, Any]:
        """On unseen slices."""
        figures = dictionary_quality(dictionary, self.test)
        return {
            "explained variance": figures.explained_variance,
            "dead share": figures.dead_share,
            "active a token": figures.l0,
            "latents": dictionary.n_latents,
        }


def run(study: Study, progress: Progress) -> ExperimentResult:
    """All recipes on the activations of the study's first segmenter."""
    evaluator = _evaluator(study)
    tau, total = study.settings.tau, len(COMPARED) + 2
    rows = []
    for number, (recipe, differs, seeds) in enumerate(COMPARED, start=1):
        first, second = evaluator.fit(recipe, Seeds()), evaluator.fit(recipe, seeds)
        null = evaluator.fit(recipe, Seeds(), on_rotated=True)
        rows.append(
            {
                "dictionary": recipe,
                "the second fit has another": differs,
                "shared": _shared(first, second, tau),
                "shared with rotated": _shared(first, null, tau),
                **evaluator.agreement(first[0], second[0]),
                **evaluator.quality(first[0]),
            }
        )
        progress(number, total)
    rows.append(_consensus(evaluator, tau))
    progress(total - 1, total)
    table = pl.DataFrame(rows, infer_schema_length=None)
    prefixes = _prefixes(evaluator)
    progress(total, total)
    headline = {
        f"{row['dictionary']}, other {row['the second fit has another']}: {column}": row.get(column)
        for row in rows
        for column in ("shared", "shared with rotated", "correlation", "explained variance", "dead share")
    }
    return ExperimentResult({"stability": table, "prefixes": prefixes}, headline, _words(evaluator, table))


def _evaluator(study: Study) -> _Evaluator:
    name = next(iter(study.settings.segmenters))
    store, segmenter = study.store(name), study.segmenter(name)
    slices = study.own_slices(name, "test")
    test = live_activations(segmenter, slices, store.hookpoint)
    rows = evenly_spaced(len(slices), PROBE_SLICES)
    try:
        elsewhere = other_slice_rows(slices.select(rows).index, seed=study.settings.seed)
    except ValueError as error:
        raise NotApplicableError(f"needs other patients' slices for its null; test slices of {name}: {error}") from None
    grids = test.slice_tokens(rows)
    rotated = variant_store(store, ROTATED, study.settings.seed)
    per_slice = prod(grid_of(grids))
    val = study.own_slices(name, "val")
    choosing = live_activations(segmenter, val, store.hookpoint).slice_tokens(evenly_spaced(len(val), PROBE_SLICES))
    return _Evaluator(
        study, name, store, rotated, test, choosing.flatten(0, 3), grids.flatten(0, 3), per_slice, elsewhere
    )


def _shared(one: tuple[SparseAutoencoder, Tensor], other: tuple[SparseAutoencoder, Tensor], tau: float) -> float:
    return align(one[0], other[0], tau=tau, alive_source=one[1], alive_target=other[1]).shared_share


def _consensus(evaluator: _Evaluator, tau: float) -> dict[str, Any]:
    """Two sets of plain seeds, none in both: what comes back in one set against what comes back in the other."""
    kept = []
    for first in (0, CONSENSUS_OF):
        seeds = [Seeds(seed, seed) for seed in range(first, first + CONSENSUS_OF)]
        fits = [evaluator.fit("plain", seed)[0] for seed in seeds]
        recurring = recurring_latents([fit.encode(evaluator.choosing) for fit in fits], correlation=CONSENSUS_R)
        latents = consensus_latents(recurring, least=1)
        kept.append(only_latents(fits[0], latents) if latents else None)
    row: dict[str, Any] = {"dictionary": f"consensus of {CONSENSUS_OF}", "the second fit has another": "set of seeds"}
    one, other = kept
    if one is None or other is None:
        return row | {"latents": 0}
    shared = align(one, other, tau=tau).shared_share
    return row | {"shared": shared} | evaluator.agreement(one, other) | evaluator.quality(one)


def _prefixes(evaluator: _Evaluator) -> pl.DataFrame:
    """Explained variance of the first latents alone, Matryoshka beside plain."""
    rows = []
    for recipe in ("plain", "Matryoshka"):
        dictionary, _ = evaluator.fit(recipe, Seeds())
        sizes = [*halved_prefixes(dictionary.n_latents), dictionary.n_latents]
        explained = prefix_quality(dictionary, evaluator.test, sizes)
        rows += [{"dictionary": recipe, "first latents": size, "explained variance": explained[size]} for size in sizes]
    return pl.DataFrame(rows)


def _words(evaluator: _Evaluator, table: pl.DataFrame) -> list[str]:
    seeds = table.filter(pl.col("the second fit has another") != ORDER).drop_nulls("correlation")
    best = seeds.sort("correlation", descending=True).row(0, named=True)
    base = table.filter(pl.col("dictionary") == "plain", pl.col("the second fit has another") == WEIGHTS)
    usual = base.row(0, named=True)
    own = evaluator.study.settings.dictionaries
    return [
        f"Dictionaries of {evaluator.name} at {evaluator.store.hookpoint}, {own.steps} steps each, fitted twice to the "
        f"same activations. Shared is the paper's criterion at tau {evaluator.study.settings.tau:g} over live latents; "
        "correlation is that of the codes of latents matched by function on unseen slices, beside the same at the same "
        "places of other patients' slices; explained variance and dead share are the first fit's on unseen slices.",
        "Shared with rotated is the null: the same recipe and seeds on activations turned at random. An agreement "
        "counts for what it has above that. Fits from points share their start by construction where only the seed "
        "differs, so the row with other points is the fair one, and the plain fit of other token order its peer.",
        f"Plain fits of two seeds share {usual['shared']:.0%} and correlate {usual['correlation']:.2f}; highest "
        f"correlation but for the token order: {best['dictionary']}, other {best['the second fit has another']}, "
        f"{best['correlation']:.2f} (shared {best['shared']:.0%}, explained variance "
        f"{best['explained variance']:.2f}).",
        f"Consensus keeps of {CONSENSUS_OF} plain fits the latents of the first that come back with a correlation of "
        f"{CONSENSUS_R:g} in at least one other on val slices, and is judged on test slices. Its explained variance is "
        f"that of what is left, without a refit, and it costs {CONSENSUS_OF} fits.",
    ]


EXPERIMENT = Experiment(
    name="stability",
    title="Stable dictionaries and the ceilings that they reach",
    paper="beyond the paper",
    run=run,
    version=3,
    figures=(
        Figure(
            kind="bars",
            table="stability",
            title="Share of latents that two fits to the same activations have in common (weights, tau of the study)",
            x="dictionary",
            y="shared",
            series="the second fit has another",
        ),
        Figure(
            kind="bars",
            table="stability",
            title="Correlation of their codes, latents matched by function",
            x="dictionary",
            y="correlation",
            series="the second fit has another",
        ),
        Figure(
            kind="lines",
            table="prefixes",
            title="Explained variance of the first latents alone",
            x="first latents",
            y="explained variance",
            series="dictionary",
        ),
    ),
)
