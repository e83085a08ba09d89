"""Policies that see no mask of the target, their baselines, and the oracles of both: what `label_free` compares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl
import torch

from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.lens import Lens
from seglens.experiments.label_free_tables import EntryRecord
from seglens.segmenters.scoring import Scores, predict_slices
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering import adjustables
from seglens.steering.attribution import associated_latents, latent_attribution
from seglens.steering.candidates import candidate_scales
from seglens.steering.fitted import Adjustable, InterventionFitSettings, Labelled, Values, fit
from seglens.steering.interventions import Intervention, evaluate_interventions
from seglens.steering.label_free import (
    CRITERIA,
    calibrated_temperature,
    evidence_of,
    match_latents,
    picked,
    proxy_validate,
    sample_tokens,
)
from seglens.steering.policies import label_of, oracle_scores
from seglens.steering.style_transfer import restyled, style_of, with_random_contrast
from seglens.steering.sweep import UNEDITED
from seglens.steering.test_time import (
    TENT_RATES,
    Unlabelled,
    UnlabelledLoss,
    adapt,
    adapted_intervention,
    entropy_loss,
    guarded,
    mean_probabilities,
    norm_affines,
    share_loss,
    unfitted,
)

FIT_RATE = 0.1
LAYER_RATE = 0.01
LATENT_RATES = (0.03, 0.1)
STRENGTHS = (0.5, 1.5)
ADAPTATION_STEPS = 16
ADAPTATION_BATCH = 8
"""Each unlabelled slice is seen about twice."""
CALIBRATION_SLICES = 48
GRID, BEST_A_SLICE = "grid of edits", "best of the grid, slice by slice"
LATENTS, LAYER = "latents fitted to the masks judged on", "last layer fitted to the masks judged on"


@dataclass(frozen=True)
class Entry:
    """A policy or a baseline.

    Attributes:
        name: of the policy.
        side: ``edit``, ``baseline``, ``control`` (an edit that saw nothing of the target), ``oracle``, or
            ``candidate``: judged for the sake of an oracle only.
        interventions: one a seed.
        oracles: names of the oracles that it is held against.
        family: the best of a family by the masks judged on is an oracle, see `best_of`; empty for none.
        chosen: what it chose, in words.
    """

    name: str
    side: str
    interventions: Sequence[Intervention]
    oracles: Sequence[str] = ()
    family: str = ""
    chosen: str = ""

    @property
    def record(self) -> EntryRecord:
        """Record that is written of it."""
        return EntryRecord(
            name=self.name,
            side=self.side,
            n_parameters=self.interventions[0].n_parameters,
            interventions=tuple(intervention.name for intervention in self.interventions),
            oracles=tuple(self.oracles),
            chosen=self.chosen,
        )


@dataclass(frozen=True)
class World:
    """Everything that a policy may look at: the network and its own cohort, and images of the target.

    Attributes:
        lens: a segmenter that was trained on the source cohort, through its dictionary.
        atlas: of that dictionary, on the source cohort.
        source: labelled slices of the source cohort.
        unlabelled: slices of the target's selection patients, their masks empty.
        proxy: the source slices, restyled as the target.
        seeds: of what is random.
        steps: of every fit to labelled slices.
    """

    lens: Lens
    atlas: LatentAtlas
    source: SliceSet
    unlabelled: SliceSet
    proxy: SliceSet
    seeds: Sequence[int]
    steps: int


def best_of(family: str) -> str:
    """Name of the oracle that takes the best of a family, the untouched network among them."""
    return f"best {family}"


def without_masks(slices: SliceSet) -> SliceSet:
    """The same images, every mask empty: what policies are given of the target."""
    return SliceSet.from_tensors(
        slices.images(),
        torch.zeros_like(slices.masks()),
        slices.brains(),
        slices.index.drop("row", "origin"),
        name=slices.name,
        sequences=slices.sequences,
        labels=slices.labels,
        preprocessing=slices.preprocessing,
    )


def few_of(slices: SliceSet, most: int) -> SliceSet:
    """At most so many slices, evenly spaced."""
    return slices.select(evenly_spaced(len(slices), most))


def proxy_for(segmenter: Segmenter, source: SliceSet, unlabelled: SliceSet, *, seed: int) -> SliceSet:
    """Labelled source slices in the style of unlabelled target slices, with lesions of random contrast."""
    images = unlabelled.images()
    target = style_of(images, predict_slices(segmenter, unlabelled) > 0)
    own = style_of(source.images(), source.masks() > 0)
    return with_random_contrast(restyled(source, own, target), seed=seed)


def picks(world: World) -> list[Entry]:
    """Every criterion's pick among the same edits, and the pick by Dice on the proxy."""
    grid = grid_of(world)
    segmenter, few = world.lens.segmenter, few_of(world.source, CALIBRATION_SLICES)
    temperature = calibrated_temperature(segmenter, few)
    source = evidence_of([], segmenter, few, temperature=temperature)[UNEDITED]
    found = evidence_of(list(grid.values()), segmenter, world.unlabelled, temperature=temperature)
    chosen = {name: picked(criterion(found, source)) for name, criterion in CRITERIA.items()}
    scores = evaluate_interventions(list(grid.values()), segmenter, few_of(world.proxy, CALIBRATION_SLICES))
    values = scores.pooled_by_edit()
    chosen["Dice on restyled source slices"] = picked(values)
    against = (best_of(GRID), BEST_A_SLICE, LATENTS)
    entries = [
        Entry(f"pick by {name}", "edit", [grid.get(pick, UNTOUCHED)], against, chosen=pick)
        for name, pick in chosen.items()
    ]
    return [*entries, *(Entry(name, "candidate", [one], family=GRID) for name, one in grid.items())]


def grid_of(world: World) -> dict[str, Intervention]:
    """Edits to pick from, all made of the source cohort."""
    names = [name for label, name in world.lens.segmenter.labels.items() if label != 0]
    few = few_of(world.source, CALIBRATION_SLICES)
    effects = {name: latent_attribution(world.lens, few, target=label_of(world.lens.segmenter, name)) for name in names}
    associated = {name: associated_latents(world.atlas, name) for name in names}
    scaled = adjustables.latents([world.lens.dictionary], offsets=False)
    (key,) = scaled.start
    return {
        name: adapted_intervention(scaled, {key: scale - 1}, name)
        for name, scale in candidate_scales(world.lens.dictionary.n_latents, associated, effects).items()
    }


def matches(world: World) -> list[Entry]:
    """Latents given the firing rate and mean of the source."""
    target, source = (sample_tokens(world.lens, slices) for slices in (world.unlabelled, world.source))
    match = match_latents(world.lens.dictionary, target, source)

    def matched(strength: float, name: str) -> list[Intervention]:
        return [match.intervention(world.lens.dictionary, strength=strength, name=name)]

    return _by_strength("latents matched to the source", matched)


def fits(world: World) -> list[Entry]:
    """Latents and the last layer fitted to the proxy, and latents fitted to the plain source as a control."""
    latents = adjustables.latents([world.lens.dictionary])
    layer = adjustables.layer(world.lens.segmenter, world.unlabelled.images([0]).to(world.lens.segmenter.device))
    proxy, plain = (Labelled(world.lens.segmenter, slices) for slices in (world.proxy, world.source))
    fitted = [_fitted(latents, proxy, FIT_RATE, world.steps, seed) for seed in world.seeds]

    def scaled(strength: float, name: str) -> list[Intervention]:
        return [
            adapted_intervention(
                latents, {key: strength * value for key, value in values.items()}, f"{name}, seed {seed}"
            )
            for seed, values in zip(world.seeds, fitted, strict=True)
        ]

    refitted = [_fitted(layer, proxy, LAYER_RATE, world.steps, seed) for seed in world.seeds]
    again = [_fitted(latents, plain, FIT_RATE, world.steps, seed) for seed in world.seeds[:1]]
    return [
        *_by_strength("latents fitted to restyled source slices", scaled),
        _entry("last layer fitted to restyled source slices", "baseline", layer, refitted, (LAYER, LATENTS)),
        _entry("latents fitted to plain source slices", "control", latents, again, (LATENTS,)),
    ]


def adaptations(world: World) -> list[Entry]:
    """Entropy minimisation of latents and of norm affines; rates by validation on the proxy."""
    few = few_of(world.source, CALIBRATION_SLICES)
    images = few.images().to(world.lens.segmenter.device)
    with torch.no_grad():
        shares = mean_probabilities(world.lens.segmenter.logits(images), few.brains().to(images.device))
    latents = adjustables.latents([world.lens.dictionary])
    unlabelled = Unlabelled(world.lens.segmenter, world.unlabelled, batch_size=ADAPTATION_BATCH)
    entries = []
    for one in (
        _Adaptation("entropy of latents", "edit", latents, entropy_loss, LATENT_RATES),
        _Adaptation("entropy and class shares by latents", "edit", latents, share_loss(shares), LATENT_RATES),
        _Adaptation("TENT", "baseline", norm_affines(world.lens.segmenter), entropy_loss, TENT_RATES),
    ):
        rate = one.proxy_validated_rate(world)
        interventions = [one.intervention(unlabelled, rate, seed) for seed in world.seeds]
        entries.append(
            Entry(one.name, one.side, interventions, (LATENTS,), chosen=f"rate {rate:g}, by proxy validation")
        )
    return entries


@dataclass(frozen=True)
class _Adaptation:
    """Numbers adapted on images alone, the untouched network where its foreground collapses or floods."""

    name: str
    side: str
    adjustable: Adjustable
    loss: UnlabelledLoss
    rates: Sequence[float]

    def intervention(self, images: Unlabelled, rate: float, seed: int) -> Intervention:
        values = adapt(self.adjustable, images, self.loss, learning_rate=rate, steps=ADAPTATION_STEPS, seed=seed)
        return guarded(adapted_intervention(self.adjustable, values, f"{self.name}, seed {seed}"), images)

    def proxy_validated_rate(self, world: World) -> float:
        """The rate that does best on the proxy for the target."""

        def at(rate: float, slices: SliceSet) -> Intervention:
            images = Unlabelled(world.lens.segmenter, slices, batch_size=ADAPTATION_BATCH)
            return self.intervention(images, rate, world.seeds[0])

        tried = {f"{rate:g}": partial(at, rate) for rate in self.rates}
        values = proxy_validate(tried, world.lens.segmenter, few_of(world.proxy, CALIBRATION_SLICES))
        return max(self.rates, key=lambda rate: values[f"{rate:g}"])


def baselines(world: World) -> list[Entry]:
    """Baselines that need no choice."""
    found = unfitted(world.lens.segmenter, world.unlabelled, world.source)
    return [Entry(intervention.name, "baseline", [intervention], (LATENTS,)) for intervention in found]


def oracles(world: World, evaluation: SliceSet) -> list[Entry]:
    """Latents and last layer fitted to the very masks that they are judged on."""
    labelled = Labelled(world.lens.segmenter, evaluation)
    latents = adjustables.latents([world.lens.dictionary])
    layer = adjustables.layer(world.lens.segmenter, evaluation.images([0]).to(world.lens.segmenter.device))
    return [
        _entry(name, "oracle", adjustable, [_fitted(adjustable, labelled, rate, world.steps, world.seeds[0])], ())
        for name, adjustable, rate in ((LATENTS, latents, FIT_RATE), (LAYER, layer, LAYER_RATE))
    ]


def evaluated(segmenter: Segmenter, entries: Sequence[Entry], evaluation: SliceSet) -> tuple[Scores, list[Entry]]:
    """Scores of all entries, and the entries with the oracles that follow from them."""
    interventions = {
        intervention.name: intervention
        for entry in entries
        for intervention in entry.interventions
        if intervention.name != UNEDITED
    }
    scores = evaluate_interventions(list(interventions.values()), segmenter, evaluation)
    value = scores.pooled_by_edit()

    def mean(entry: Entry) -> float:
        return sum(value[intervention.name] for intervention in entry.interventions) / len(entry.interventions)

    kept = [entry for entry in entries if entry.side != "candidate"]
    untouched = Entry(UNEDITED, "candidate", [UNTOUCHED])
    for family in sorted({entry.family for entry in entries} - {""}):
        best = max([untouched, *(entry for entry in entries if entry.family == family)], key=mean)
        kept.append(Entry(best_of(family), "oracle", best.interventions, chosen=best.name))
    grid = [entry.interventions[0].name for entry in entries if entry.family == GRID]
    kept.append(Entry(BEST_A_SLICE, "oracle", [replace(UNTOUCHED, name=BEST_A_SLICE)]))
    return Scores.merged([scores, *_best_a_slice(scores, grid)]), kept


UNTOUCHED = Intervention(UNEDITED, 0, "none", lambda batch: batch.logits)


def _best_a_slice(scores: Scores, grid: Sequence[str]) -> list[Scores]:
    """The best edit of each slice by its own mask; slices without any lesion, which have no Dice, stay untouched."""
    chosen = oracle_scores(scores, grid, target=None, name=BEST_A_SLICE)
    untouched = scores.table.filter(pl.col("edit") == UNEDITED)
    rest = untouched.join(chosen.table, on="row", how="anti").with_columns(pl.lit(BEST_A_SLICE).alias("edit"))
    return [chosen, Scores(rest)]


def _by_strength(name: str, make: Callable[[float, str], list[Intervention]]) -> list[Entry]:
    """The policy at strength 1, and other strengths of it, so that the best one is known."""
    entries = [Entry(name, "edit", make(1.0, name), (best_of(f"strength of {name}"), LATENTS), f"strength of {name}")]
    for strength in STRENGTHS:
        own = f"{name}, strength {strength:g}"
        entries.append(Entry(own, "candidate", make(strength, own), family=f"strength of {name}"))
    return entries


def _entry(name: str, side: str, adjustable: Adjustable, fitted: Sequence[Values], against: Sequence[str]) -> Entry:
    interventions = [
        adapted_intervention(adjustable, values, f"{name}, seed {number}") for number, values in enumerate(fitted)
    ]
    return Entry(name, side, interventions, against)


def _fitted(adjustable: Adjustable, labelled: Labelled, rate: float, steps: int, seed: int) -> Values:
    return fit(adjustable, labelled.batches(), InterventionFitSettings(learning_rate=rate, steps=steps), seed=seed)
