"""Figure 5: steering universal, specific and random latents over alpha, on every cohort with the same labels.

The paper's claim is an interaction: what specific latents do more than others on the segmenter's own cohort, they do
not do elsewhere. So the sets carry as much activation, and the interaction is tested over patients; costs are shares of
the untouched Dice, for where that is higher there is more to lose.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch

from seglens.artifacts import Draft, finite
from seglens.cohorts.slice_set import SliceSet
from seglens.diffing.alignment import Alignment
from seglens.diffing.universal import specific_latents, universal_latents
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, part
from seglens.experiments.pairs import pairs_alike
from seglens.experiments.segmenters import dice_columns, example_segmenter
from seglens.runtime.progress import Progress
from seglens.segmenters.intervals import interval_of, resampled
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.baselines import random_latents
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import UNEDITED, sweep
from seglens.studies.stages import Study

ALPHAS = (-2.0, 0.0, 0.5, 2.0, 5.0)
MAX_LATENTS = 40
"""Latents of each set, the heaviest pairs; all sets have as many."""
CALIPER = math.log(2)
"""Largest distance of a universal and a specific latent in log firing rate and log mass: a factor of two."""
DRAWS = 2


def run(study: Study, progress: Progress) -> ExperimentResult:
    """The adult segmenter (or the first that is compared), its latents multiplied together."""
    alignments = _alignments(study)
    compared = {name for one in alignments for name in (one.source, one.target)}
    name = example_segmenter(study, "adult")
    name = name if name in compared else sorted(compared)[0]
    universal = universal_latents(alignments, reference=name)
    atlas = LatentAtlas.read(study.result("atlas", name))
    sets = steered_sets(
        atlas.table,
        universal=universal[name].to_list(),
        specific=specific_latents(alignments, name, universal),
        seed=study.settings.seed,
    )
    segmenter = study.segmenter(name)
    cohorts = [
        cohort for cohort in study.settings.cohorts if dict(study.slices(cohort).labels) == dict(segmenter.labels)
    ]
    scores = {}
    for number, cohort in enumerate(cohorts):
        scores[cohort] = _scores(study, name, study.slices(cohort).split("test"), sets)
        progress(number + 1, len(cohorts))
    curves = pl.concat([_curves(own, sets, cohort) for cohort, own in scores.items()])
    others = sorted(set(study.settings.cohorts) - set(cohorts))
    left_out = [f"Cohort {other}: its labels are not those of {name}." for other in others]
    tested = interactions(scores, study.settings.segmenters[name].cohort, tuple(sets))
    if tested.is_empty():
        left_out.append("The interaction: no other cohort has the same labels.")
    size = len(sets["universal"])
    words = [
        f"{universal.height} latents of {name} are shared with every other segmenter of its architecture by the "
        f"paper's rule; the rest it calls specific. {size} pairs of a universal and a specific latent that fire about "
        "as often and with as much mass are multiplied by alpha, each kind together, beside as many random latents "
        f"({DRAWS} draws) matched alike.",
        "Specific latents are selective where they cost more Dice than the others on the segmenter's own cohort and "
        "not on the other cohorts. Costs are shares of the cohort's untouched Dice: a segmenter does best on its own, "
        "and has most to lose there. The interaction, own less others, is the mean over alphas that were fixed "
        "beforehand, with its interval over patients of all cohorts.",
        *(
            f"Specific less {row['less']}: "
            + ("undefined " if row["interaction"] is None else f"{row['interaction']:+.3f} ")
            + ("[no interval]" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]")
            + " of the untouched Dice, so specific latents are "
            + f"{'' if row['selective'] else 'not shown to be '}selective."
            for row in tested.filter(pl.col("alpha").is_null()).iter_rows(named=True)
        ),
    ]
    facts = [
        {
            "set": kind,
            "latents": len(latents),
            "share of activation": float(atlas.table["mass"].gather(list(latents)).sum())
            / float(atlas.table["mass"].sum()),
        }
        for kind, latents in sets.items()
    ]
    tables_of = {"interaction": tested, "steering": curves, "sets": pl.DataFrame(facts)}
    return ExperimentResult(tables_of, interaction_headlines(tested), words, left_out)


def steered_sets(
    latents: pl.DataFrame, *, universal: Sequence[int], specific: Sequence[int], seed: int
) -> dict[str, tuple[int, ...]]:
    """As many universal as specific latents, in pairs of like firing rate and mass, and random ones matched alike.

    Pairs are an optimal assignment in log firing rate and log mass; those within `CALIPER` are taken, heaviest first.

    Raises:
        NotApplicableError: no pair of latents is that much alike.
    """
    from scipy.optimize import linear_sum_assignment

    live = latents.filter(~pl.col("dead"))
    kinds = [live.filter(pl.col("latent").is_in(list(wanted))) for wanted in (universal, specific)]
    places = [own.select(pl.col("firing_rate").log(), pl.col("mass").log()).to_numpy() for own in kinds]
    distance = np.linalg.norm(places[0][:, None] - places[1][None], axis=2)
    rows, columns = linear_sum_assignment(np.minimum(distance, CALIPER))
    near = distance[rows, columns] <= CALIPER
    pairs = pl.DataFrame(
        {
            "universal": kinds[0]["latent"].gather(rows[near]),
            "specific": kinds[1]["latent"].gather(columns[near]),
            "mass": kinds[0]["mass"].gather(rows[near]) + kinds[1]["mass"].gather(columns[near]),
        }
    ).sort(["mass", "universal"], descending=[True, False])
    size = min(MAX_LATENTS, live.height // 4, pairs.height)
    if size == 0:
        raise NotApplicableError(
            "needs universal and specific latents that fire about as often and as strongly; there are "
            f"{kinds[0].height} universal, {kinds[1].height} specific and {pairs.height} such pairs"
        )
    sets = {kind: tuple(pairs[kind].head(size).to_list()) for kind in ("universal", "specific")}
    firing, masses = (torch.tensor(latents.sort("latent")[column].to_list()) for column in ("firing_rate", "mass"))
    drawn = random_latents(firing, sets["specific"], draws=DRAWS, seed=seed, avoid=sets["universal"], masses=masses)
    return sets | {f"random {draw}": own for draw, own in enumerate(drawn)}


def interactions(scores: Mapping[str, Scores], own: str, sets: Sequence[str]) -> pl.DataFrame:
    """How much more Dice specific latents cost than others on the own cohort than elsewhere, over patients.

    A cost is a share of the cohort's untouched Dice in the same draw of patients: a set that takes a tenth of the Dice
    everywhere costs more points where there are more, and is not selective.

    Args:
        scores: by cohort, with ``none`` and an edit ``<set> <alpha>`` for every set and alpha; no patient is in two
            cohorts.
        own: cohort of the segmenter.
        sets: names: ``universal``, ``specific`` and the draws of random latents.

    Returns:
        A row for each comparison (``universal``, ``random``) and alpha, and one over all alphas (null): less, alpha,
        cost on the own cohort and elsewhere (the specific set's loss of pooled foreground Dice less the other's, as a
        share of the untouched one; null where that is 0), interaction, low, high, selective (the interval lies above
        0). Empty without another cohort.
    """
    against = {"universal": ["universal"], "random": [name for name in sets if name.startswith("random")]}
    cohorts = sorted(scores, key=lambda cohort: (cohort != own, cohort))
    alphas = [alpha for alpha in ALPHAS if alpha != 1]
    rows = []
    for less, others in against.items() if own in scores and len(scores) > 1 else ():
        costs = np.stack([_costs(scores[cohort], others, alphas, seed) for seed, cohort in enumerate(cohorts)])
        n_patients = min(scores[cohort].table["patient"].n_unique() for cohort in cohorts)
        for alpha, place in [*((alpha, [n]) for n, alpha in enumerate(alphas)), (None, list(range(len(alphas))))]:
            cost = costs[:, place].mean(axis=1)  # [cohorts, 1 + draws]
            elsewhere = cost[1:].mean(axis=0)
            interaction = cost[0] - elsewhere
            interval = interval_of(float(interaction[0]), interaction[1:], n_patients)
            rows.append(
                {
                    "less": less,
                    "alpha": alpha,
                    "cost on the own cohort": finite(float(cost[0, 0])),
                    "cost elsewhere": finite(float(elsewhere[0])),
                    "interaction": finite(interval.value),
                    "low": finite(interval.low),
                    "high": finite(interval.high),
                    "selective": interval.low > 0,
                }
            )
    names = ("cost on the own cohort", "cost elsewhere", "interaction", "low", "high")
    floats = dict.fromkeys(("alpha", *names), pl.Float64)
    return pl.DataFrame(rows, schema={"less": pl.String, **floats, "selective": pl.Boolean})


def _costs(scores: Scores, others: Sequence[str], alphas: Sequence[float], seed: int) -> np.ndarray:
    """Cost of the specific set beyond that of others, of the untouched Dice ``[alphas, 1 + draws]``; NaN where it is 0.

    Draws are of the cohort's patients, the same for both.
    """
    sets = ("specific", *others)
    edits = [UNEDITED, *(f"{kind} {alpha:g}" for alpha in alphas for kind in sets)]
    value, drawn = resampled(scores, edits, seed=seed)
    untouched, *edited = np.concatenate([value[:, None], drawn], axis=1)
    both = np.reshape(edited, (len(alphas), len(sets), -1))
    base = np.where(untouched > 0, untouched, np.nan)
    return np.asarray((both[:, 1:].mean(axis=1) - both[:, 0]) / base)


def interaction_headlines(tested: pl.DataFrame) -> dict[str, float | None]:
    """The interaction over all alphas, with its interval."""
    found: dict[str, float | None] = {}
    for row in tested.filter(pl.col("alpha").is_null()).iter_rows(named=True):
        name = f"interaction, specific less {row['less']}"
        found |= {name: row["interaction"], f"{name}, low": row["low"], f"{name}, high": row["high"]}
    return found


def _alignments(study: Study) -> list[Alignment]:
    """Of the architecture with the most segmenters, every pair."""
    pairs = pairs_alike(study.settings)
    by_architecture: dict[str, list[tuple[str, str]]] = {}
    for pair in pairs:
        by_architecture.setdefault(study.settings.segmenters[pair[0]].architecture, []).append(pair)
    return [Alignment.read(study.result("alignment", *pair)) for pair in max(by_architecture.values(), key=len)]


def _scores(study: Study, name: str, slices: SliceSet, sets: Mapping[str, tuple[int, ...]]) -> Scores:
    lens = study.lens(name)
    edits = {
        f"{kind} {alpha:g}": LatentEdit(lens.hookpoint, lens.dictionary_hash, latents, "multiply", alpha)
        for kind, latents in sets.items()
        for alpha in ALPHAS
    }

    def make(draft: Draft, progress: Progress) -> None:
        draft.save_table("scores", sweep(lens, slices, edits, progress=progress).table)

    inputs = {
        "dictionary": lens.dictionary_hash,
        "segmenter": lens.segmenter.hash,
        "slices": slices.hash,
        "sets": {kind: list(latents) for kind, latents in sets.items()},
        "alphas": list(ALPHAS),
    }
    return Scores(part(study, f"universal/{name}@{slices.name}", "scores", inputs, make).table("scores"))


def _curves(scores: Scores, sets: Mapping[str, tuple[int, ...]], cohort: str) -> pl.DataFrame:
    untouched = scores.summary(UNEDITED)
    rows = []
    for kind in sets:
        for alpha in sorted({*ALPHAS, 1.0}):
            summary = untouched if alpha == 1 else scores.summary(f"{kind} {alpha:g}")
            figures = dice_columns(summary, "foreground")
            rows.append({"cohort": cohort, "latents": kind, "alpha": alpha, **figures})
    table = pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.col("latents").str.replace(r"^random \d+$", "random (mean of draws)")
    )
    return table.group_by("cohort", "latents", "alpha", maintain_order=True).mean()


EXPERIMENT = Experiment(
    "universal",
    "Steering universal and specific latents",
    "Figure 5",
    run,
    figures=(
        Figure(
            "lines",
            "steering",
            "Foreground Dice (pooled) over alpha",
            x="alpha",
            y="foreground Dice, pooled",
            series="latents",
            panel="cohort",
            caption="Alpha 1 is the untouched segmenter.",
        ),
    ),
    version=3,
)
