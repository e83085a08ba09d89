"""Tables 1 and 7: which share of latents two segmenters share by the paper's criterion, and what that share is worth.

Every share stands between nulls (the same SAE seed on rotated activations, and on white noise) and ceilings (one model
twice), for a common SAE seed and for two, for a common start of the segmenters and for two, and over the length of the
SAE's training. Latents that never fire are left out.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import polars as pl
import torch
from torch import Tensor

from seglens.activations.live import live_activations
from seglens.activations.store import ActivationStore
from seglens.artifacts import Draft
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import calibrated_share
from seglens.diffing.records import PairRecord
from seglens.diffing.sharing import align
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, Published, part
from seglens.experiments.pairs import DIFFERENT, TRAINED, pair_name, pairs_alike, start_of
from seglens.runtime.progress import Progress
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import train_segmenter
from seglens.studies.analyses.segmenter import identity, training_settings
from seglens.studies.stages import Study
from seglens.studies.variants import (
    PLAIN,
    REORDERED,
    RESEEDED,
    ROTATED,
    alive_latents,
    fit_to_store,
    variant_seeds,
    variant_store,
)

NOISE_TOKENS = 100_000
NOISE_SEED = 10_000
"""Added to the study's own, from which dictionaries start: noise of the same stream would be made of their rows."""
LENGTHS = (0.1, 0.3, 1, 3)
"""Times the study's own number of SAE steps."""
OTHER_START = 1000
"""Added to the seed of a segmenter that is to start elsewhere."""
PAPER = {
    "adult / pediatric": 0.589,
    "adult / ssa": 0.432,
    "healthy / adult": 0.361,
    "pediatric / ssa": 0.339,
    "healthy / pediatric": 0.289,
    "healthy / ssa": 0.192,
}
Fitted = tuple[SparseAutoencoder, Tensor]
"""A dictionary and which of its latents are alive, bool [m]."""


def run(study: Study, progress: Progress) -> ExperimentResult:
    """All pairs, then for one of them another start and other lengths of training."""
    pairs = pairs_alike(study.settings)
    rows = []
    noise: dict[str, Fitted] = {}
    for number, (source, target) in enumerate(pairs):
        architecture = study.settings.segmenters[source].architecture
        if architecture not in noise:
            noise[architecture] = _noise(study, source)
        rows.append(_pair(study, source, target, noise[architecture]))
        progress(number + 1, len(pairs) + 2)
    shares = pl.DataFrame(rows, infer_schema_length=None)
    first = _example(study, pairs)
    starts, left_out = _starts(study, first, shares)
    progress(len(pairs) + 1, len(pairs) + 2)
    lengths = _lengths(study, first)
    progress(len(pairs) + 2, len(pairs) + 2)
    return ExperimentResult(
        {"shared": shares, "starts": starts, "training length": lengths},
        headlines(shares, lengths),
        _words(shares, starts, lengths),
        left_out,
    )


def headlines(shares: pl.DataFrame, lengths: pl.DataFrame) -> dict[str, float | None]:
    """The figures that are quoted: shares of the paper's pairs, their bounds, and both ends of the SAE's training."""
    found: dict[str, float | None] = {
        f"shared {row['pair']}": row["shared"] for row in shares.iter_rows(named=True) if row["pair"] in PAPER
    }
    for column in ("shared", "rotated null", "white-noise null", "ceiling", "other SAE seed", "calibrated share"):
        found[f"{column}, mean over pairs"] = _mean(shares[column])
    for words, steps in (("shortest", lengths["steps"].min()), ("longest", lengths["steps"].max())):
        for row in lengths.filter(pl.col("steps") == steps).iter_rows(named=True):
            found[f"{row['compared']}, {words} SAE training"] = row["shared"]
    return found


def share(one: Fitted, other: Fitted, tau: float) -> float:
    """The paper's shared fraction, over latents alive in both dictionaries."""
    return align(one[0], other[0], tau=tau, alive_source=one[1], alive_target=other[1]).shared_share


def _pair(study: Study, source: str, target: str, noise: Fitted) -> dict[str, Any]:
    pair = study.result("alignment", source, target).record("pair", PairRecord)
    bounds, tau = pair.figures, study.settings.tau
    one, other = study.with_alive(source), study.with_alive(target)
    shared = share(one, other, tau)
    return {
        "pair": pair_name(source, target),
        "segmenters start from": _relation(study, source, target),
        "shared": shared,
        "rotated null": bounds.floor,
        "white-noise null": _mean([share(one, noise, tau), share(other, noise, tau)]),
        "ceiling": bounds.ceiling,
        "ceiling, other SAE seed": bounds.ceiling_other_seed,
        "calibrated share": calibrated_share(shared, bounds.floor, bounds.ceiling),
        "other SAE seed": share(one, study.with_alive(target, RESEEDED), tau),
        "correlation of shared pairs": bounds.function,
        "correlation matched by function": bounds.functional,
        "functional floor": bounds.functional_floor,
        "alive in both at most": min(int(one[1].sum()), int(other[1].sum())),
    }


def _noise(study: Study, name: str, steps: int | None = None) -> Fitted:
    """A dictionary of white noise as wide as a segmenter's activation, by the study's own seed."""
    store = study.store(name)
    architecture = study.settings.segmenters[name].architecture
    n_slices = max(1, NOISE_TOKENS // prod(store.grid))
    generator = torch.Generator().manual_seed(study.settings.seed + NOISE_SEED)
    white = ActivationStore.from_grids(
        torch.randn(n_slices, *store.grid, store.d_in, generator=generator),
        hookpoint=store.hookpoint,
        segmenter_hash="",
        slices_hash="",
    )
    stage = f"dictionary-noise/{architecture}{'' if steps is None else f'-{steps}'}"
    return _fitted(study, stage, store=white, like=name, steps=steps)


def _fitted(
    study: Study, name: str, *, store: ActivationStore, like: str, steps: int | None = None, variant: str = ""
) -> Fitted:
    """A dictionary as a part of its own, fitted as that of the segmenter ``like`` but for the number of steps."""
    own = study.dictionary_settings(like)
    if steps is not None:
        own = own.model_copy(update={"steps": steps})
    seeds = variant_seeds(variant, study.settings.seed)

    def make(draft: Draft, progress: Progress) -> None:
        fit_to_store(store, own, seeds=seeds, device=study.device, checkpoint=None, progress=progress).write(draft)

    inputs = {"store": store.hash, "settings": own.model_dump(mode="json", exclude={"controls"}), "seeds": list(seeds)}
    dictionary = SparseAutoencoder.read(part(study, name, "dictionary", inputs, make))
    return dictionary, alive_latents(dictionary, store)


def _example(study: Study, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The pair that is trained anew and longer: one with a common start and the same labels where there is one."""

    def rank(pair: tuple[str, str]) -> tuple[bool, bool]:
        source, target = (study.segmenter(name).labels for name in pair)
        return _relation(study, *pair) != TRAINED, dict(source) != dict(target)

    return min(pairs, key=rank)


def _starts(study: Study, pair: tuple[str, str], shares: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The same pair with a common start and without: the target trained once more from other random weights."""
    source, target = pair
    own, tau = study.settings.segmenters[target], study.settings.tau
    here = _relation(study, source, target)
    row = shares.row(by_predicate=pl.col("pair") == pair_name(source, target), named=True)
    rows = [{"pair": row["pair"], "segmenters start from": here, "SAE seed": "same", "shared": row["shared"]}]
    rows.append({**rows[0], "SAE seed": "different", "shared": row["other SAE seed"]})
    if own.pretrained is not None or own.model is not None or here == DIFFERENT:
        reason = "the segmenters start apart already"
        if here != DIFFERENT:
            reason = "it is opened, not trained" if own.model is not None else "the segmenters start pretrained"
        return pl.DataFrame(rows), [f"Training {target} again from other random weights: {reason}."]
    anew = own.model_copy(update={"init_from": None})
    seed, slices = study.settings.seed + OTHER_START, study.own_slices(target, "train")

    def make(draft: Draft, progress: Progress) -> None:
        train_segmenter(
            slices,
            architecture=anew.architecture,
            settings=training_settings(anew, len(slices)),
            seed=seed,
            device=study.device,
            progress=progress,
        ).write(draft)

    inputs = {"slices": slices.hash, "settings": identity(anew), "seed": seed}
    segmenter = Segmenter.read(part(study, f"segmenter-anew/{target}", "segmenter", inputs, make)).to(study.device)
    store = live_activations(segmenter, slices, study.hookpoint(target))
    one = study.with_alive(source)
    for variant, words in (("", "same"), (RESEEDED, "different")):
        stage = f"dictionary-anew/{target}{variant and '-' + variant}"
        other = _fitted(study, stage, store=store, like=target, variant=variant)
        shared = share(one, other, tau)
        rows.append({"pair": row["pair"], "segmenters start from": DIFFERENT, "SAE seed": words, "shared": shared})
    return pl.DataFrame(rows), []


def _lengths(study: Study, pair: tuple[str, str]) -> pl.DataFrame:
    """Shares of one pair, of its null and of its ceiling over the number of SAE steps."""
    (source, target), seed, tau = pair, study.settings.seed, study.settings.tau
    rows = []
    own = study.settings.dictionaries.steps
    for steps in (max(1, round(length * own)) for length in LENGTHS):

        def fitted(name: str, variant: str = "", steps: int = steps) -> Fitted:
            store = variant_store(study.store(name), variant, seed)
            if steps == own:
                return study.with_alive(name, variant or PLAIN)
            stage = f"dictionary-long/{name}{variant and '-' + variant}-{steps}"
            return _fitted(study, stage, store=store, like=name, steps=steps, variant=variant)

        one = fitted(source)
        for compared, other in (
            ("pair", fitted(target)),
            ("rotated null", fitted(target, ROTATED)),
            ("white-noise null", _noise(study, target, None if steps == own else steps)),
            ("ceiling", fitted(source, REORDERED)),
        ):
            rows.append({"steps": steps, "compared": compared, "shared": share(one, other, tau)})
    return pl.DataFrame(rows)


def _relation(study: Study, source: str, target: str) -> str:
    return start_of(study.settings.segmenters, source, target)


def _mean(values: Sequence[float | None] | pl.Series) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _words(shares: pl.DataFrame, starts: pl.DataFrame, lengths: pl.DataFrame) -> list[str]:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f}%"

    means = {column: percent(_mean(shares[column])) for column in shares.columns if shares[column].dtype.is_float()}
    ends = {
        steps: {
            row["compared"]: percent(row["shared"]) for row in lengths.iter_rows(named=True) if row["steps"] == steps
        }
        for steps in (min(lengths["steps"].to_list()), max(lengths["steps"].to_list()))
    }
    apart = starts.filter(pl.col("segmenters start from") == DIFFERENT)
    paragraphs = [
        "Latents are matched by the cosines of their encoder and decoder rows (Hungarian on both, cosine at least "
        "0.8 on both, the same partner), and the share is taken over latents that fire. Beside each share stand what "
        "the same rule finds where there is nothing in common but the SAE's seed (activations turned at random; white "
        "noise), and what it finds for one model twice (same seed in another token order; another seed).",
        f"Mean over the pairs: shared {means['shared']}; rotated null {means['rotated null']}; white-noise null "
        f"{means['white-noise null']}; ceiling {means['ceiling']}; the same pairs with two SAE seeds "
        f"{means['other SAE seed']}, and one model with two SAE seeds {means['ceiling, other SAE seed']}. A raw share "
        "near its null says nothing of the models; S* = (share - null) / (ceiling - null) does.",
        *(
            f"After {steps} SAE steps the pair has {found['pair']}, the rotated null {found['rotated null']}, white "
            f"noise {found['white-noise null']}, the ceiling {found['ceiling']}."
            for steps, found in ends.items()
        ),
    ]
    if apart.height:
        row = apart.row(0, named=True)
        paragraphs.append(
            f"{row['pair']} with segmenters that start from different random weights: {percent(row['shared'])} by one "
            "SAE seed. Cosines of weights mean something only inside one activation space; independently trained "
            "models do not share one, so what is left is the common SAE seed."
        )
    return paragraphs


EXPERIMENT = Experiment(
    "shared",
    "Shared latents",
    "Tables 1 and 7",
    run,
    version=2,
    figures=(
        Figure(
            "ranges",
            "shared",
            "Shared latents of every pair, between null and ceiling",
            x="shared",
            y="pair",
            series="segmenters start from",
            value="calibrated share",
            low="rotated null",
            high="ceiling",
            caption="The bar runs from the rotated null to the ceiling (one model twice, same SAE seed).",
        ),
        Figure(
            "lines",
            "training length",
            "Shared share over the length of the SAE's training",
            x="steps",
            y="shared",
            series="compared",
        ),
    ),
    published={
        f"shared {pair}": Published(value, "Tables 1 and 7; no floor or ceiling is given there")
        for pair, value in PAPER.items()
    },
)
