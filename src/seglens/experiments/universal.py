"""Figure 5: steering universal, specific and random latents over alpha, on every cohort with the same labels."""

from collections.abc import Mapping, Sequence

import polars as pl
import torch

from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.diffing.alignment import Alignment
from seglens.diffing.universal import specific_latents, universal_latents
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, part
from seglens.experiments.pairs import pairs_alike
from seglens.experiments.segmenters import dice_columns, example_segmenter
from seglens.runtime.progress import Progress
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.baselines import random_latents
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import UNEDITED, sweep
from seglens.studies.stages import Study

ALPHAS = (-2.0, 0.0, 0.5, 2.0, 5.0)
MAX_LATENTS = 40
"""Latents of each set, the heaviest; all sets have as many as the smallest."""
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
    tables = []
    for number, cohort in enumerate(cohorts):
        slices = study.slices(cohort).split("test")
        tables.append(_curves(_scores(study, name, slices, sets), sets, cohort))
        progress(number + 1, len(cohorts))
    curves = pl.concat(tables)
    others = sorted(set(study.settings.cohorts) - set(cohorts))
    left_out = [f"Cohort {other}: its labels are not those of {name}." for other in others]
    size = len(sets["universal"])
    words = [
        f"{universal.height} latents of {name} are shared with every other segmenter of its architecture by the "
        f"paper's rule; the rest it calls specific. Of each kind the {size} with the most activation are multiplied by "
        f"alpha together, beside {DRAWS} draws of other latents that fire about as often as the specific ones.",
        "Sets that carry more activation move the segmentation more, whatever they are called: the table of sets gives "
        "the activation of each. A selective effect would be a curve of the specific set that leaves the random one on "
        "the segmenter's own cohort and not on the others.",
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
    return ExperimentResult({"steering": curves, "sets": pl.DataFrame(facts)}, headlines(curves), words, left_out)


def steered_sets(
    latents: pl.DataFrame, *, universal: Sequence[int], specific: Sequence[int], seed: int
) -> dict[str, tuple[int, ...]]:
    """As many universal as specific latents, the heaviest of each, and random ones matched to the specific.

    Raises:
        NotApplicableError: one of the kinds has no live latent.
    """
    live = latents.filter(~pl.col("dead"))

    def heaviest(wanted: Sequence[int]) -> list[int]:
        own = live.filter(pl.col("latent").is_in(list(wanted))).sort(["mass", "latent"], descending=[True, False])
        return own["latent"].to_list()

    kinds = {"universal": heaviest(universal), "specific": heaviest(specific)}
    size = min(MAX_LATENTS, live.height // 4, *(len(own) for own in kinds.values()))
    if size == 0:
        few = ", ".join(f"{len(own)} {kind}" for kind, own in kinds.items())
        raise NotApplicableError(f"needs universal and specific latents that fire; there are {few}")
    sets = {kind: tuple(own[:size]) for kind, own in kinds.items()}
    firing = torch.tensor(latents.sort("latent")["firing_rate"].to_list())
    drawn = random_latents(firing, sets["specific"], draws=DRAWS, seed=seed, avoid=sets["universal"])
    return sets | {f"random {draw}": own for draw, own in enumerate(drawn)}


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


def headlines(curves: pl.DataFrame) -> dict[str, float | None]:
    """The largest move of pooled Dice that each set makes on each cohort."""
    column = "foreground Dice, pooled"
    found: dict[str, float | None] = {}
    for (cohort, kind), rows in curves.group_by("cohort", "latents", maintain_order=True):
        untouched = rows.filter(pl.col("alpha") == 1)[column][0]
        moves = [value - untouched for value in rows[column].to_list() if value is not None and untouched is not None]
        found[f"largest change, {kind}, {cohort}"] = max(moves, key=abs) if moves else None
    return found


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
)
