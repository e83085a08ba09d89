"""Table 5 and Figure 8: a segmenter on another population, by latents and by all that they must beat.

Table ``policies`` wants bars with intervals, one panel a direction; ``labelled patients`` (the learning curve) and
``alphas`` (ALS and MLS over alpha in [-100, 100]) want lines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
import torch

from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.progress import Progress
from seglens.segmenters.intervals import FIGURES
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import describe
from seglens.steering.adjustables import LAST_HIDDEN, with_last_hidden
from seglens.steering.contest import (
    FITTED_CEILINGS,
    Contestant,
    constant_contestants,
    fitted_contestants,
    possible,
)
from seglens.steering.corrections import Correction, judge
from seglens.steering.levers import associated_latents
from seglens.steering.policies import label_of, oracle_scores
from seglens.steering.sweep import UNEDITED, alpha_grid, sweep
from seglens.steering.test_time import unfitted
from seglens.studies.paper.adaptation_latents import DEEP, deep_dictionary, differing_latents, untrained_like
from seglens.studies.paper.adaptation_tables import (
    ORACLE,
    class_headlines,
    curve_rows,
    headlines,
    lead_rows,
    paragraphs,
    policy_rows,
)
from seglens.studies.paper.directions import Direction, by_direction, directions_of, patients_of
from seglens.studies.paper.experiment import Experiment, Figure, Finding, Published, part
from seglens.studies.paper.label_free_policies import few_of
from seglens.studies.stages import Study

SEEDS = (0, 1, 2)
SIZES = (1, 3, 5)
DRAWS = {1: 4, 3: 2, 5: 2}
"""Of labelled patients, by their number; of another number 2. With few patients the draw matters most."""
STEPS = 30
SHORT = ("latents", "latents_two_depths", "logit_affine", "channel_affine", "last_layer", "channels_and_layer")
FULL = (*SHORT, "top_latents", "latents_last_hidden", "norm_affines", "untrained_two_depths", "whole_suffix")
CURVE = ("latents_two_depths", "logit_affine", "channel_affine", "last_layer", "channels_and_layer", "norm_affines")
LONGER = ("latents_two_depths", "last_layer", "norm_affines", "untrained_two_depths")
UNLABELLED_SLICES = 96
ALPHAS: Mapping[str, tuple[float, ...]] = {
    "multiply": (-100.0, -10.0, -2.0, 0.0, 0.5, 1.5, 2.0, 3.0, 10.0, 100.0),
    "add": (-100.0, -10.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 10.0, 100.0),
}
ASSOCIATED = 10


def run(
    study: Study,
    progress: Progress,
    *,
    seeds: Sequence[int] = SEEDS,
    sizes: Sequence[int] = SIZES,
    draws: Mapping[int, int] = DRAWS,
    steps: int = STEPS,
) -> Finding:
    """Every direction: choose, judge, and compare over patients.

    Args:
        study: with at least one entry under ``steering``.
        progress: told after each direction.
        seeds: of the final fits.
        sizes: labelled patients of the learning curve, beside all of them.
        draws: of so many patients, by size.
        steps: of every fit.
    """
    directions = directions_of(study)
    policies, curves, alphas = [], [], []
    for number, direction in enumerate(directions):
        found = adapted(study, direction, plan_of(direction, seeds, sizes, draws, steps))
        policies.append(
            policy_rows(Scores(found.table("scores")), found.document("contestants"), direction.name, direction.label)
        )
        if direction.in_full:
            curves.append(curve_rows(Scores(found.table("curve")), direction.name))
            alphas.append(found.table("alphas").with_columns(pl.lit(direction.name).alias("direction")))
        progress(number + 1, len(directions))
    table, curve = pl.concat(policies), pl.concat(curves)
    leads = pl.concat([lead_rows(rows) for rows in policies])
    left_out = _left_out(study, directions)
    return Finding(
        {
            "policies": table.drop("fits", "draws"),
            "leads": leads,
            "labelled patients": curve,
            "alphas": pl.concat(alphas),
        },
        headlines(leads, curve) | class_headlines(table),
        paragraphs(leads, curve, table, steps),
        left_out,
    )


def plan_of(
    direction: Direction,
    seeds: Sequence[int] = SEEDS,
    sizes: Sequence[int] = SIZES,
    draws: Mapping[int, int] = DRAWS,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Seeds, draws by size and steps of a direction; JSON-able."""
    own = {str(size): draws.get(size, 2) for size in sizes} if direction.in_full else {}
    return {"seeds": list(seeds), "draws": own, "steps": steps}


def one_direction(study: Study, direction: Direction) -> None:
    """A direction as `run` finds it."""
    adapted(study, direction, plan_of(direction))


def adapted(study: Study, direction: Direction, plan: Mapping[str, Any]) -> Artifact:
    """Contestants of one direction, chosen and judged, as an artifact of the run.

    It holds scores.parquet (all contestants and seeds), contestants.json, and in full curve.parquet and alphas.parquet.
    """
    dictionary = study.dictionary(direction.segmenter)
    selection, evaluation = patients_of(study, direction)
    inputs = dict(plan) | {
        "dictionary": dictionary.hash,
        "selection": selection.hash,
        "evaluation": evaluation.hash,
        "label": direction.label,
        "in_full": direction.in_full,
        "own": study.own_slices(direction.segmenter, "val").hash,
        "deep": str(DEEP),
        "version": 5,
    }

    def make(draft: Draft, progress: Progress) -> None:
        segmenter = with_last_hidden(study.segmenter(direction.segmenter), selection.images([0]).to(study.device))
        opened = {segmenter.place(name).module for name in (dictionary.hookpoint, LAST_HIDDEN)}
        deep = deep_dictionary(study, direction.segmenter, segmenter) if len(opened) == 2 else None
        own, training = study.own_slices(direction.segmenter, "val"), study.own_slices(direction.segmenter, "train")
        untrained = [] if deep is None else [untrained_like(one, segmenter, training) for one in (dictionary, deep)]
        common: dict[str, Any] = {"target": direction.label, "deep": deep, "steps": plan["steps"]}
        known = {"deep": deep is not None, "untrained": deep is not None}
        names = possible(FULL if direction.in_full else SHORT, segmenter, **known)
        specific = differing_latents(segmenter, dictionary, own, selection)
        unfitted_rivals = unfitted(segmenter, few_of(selection, UNLABELLED_SLICES), few_of(training, UNLABELLED_SLICES))
        contestants = [
            *constant_contestants(segmenter, dictionary, selection, target=direction.label, specific=specific),
            *(Contestant(rival.name, "rival", [rival]) for rival in unfitted_rivals),
            *fitted_contestants(
                segmenter,
                dictionary,
                selection,
                names,
                untrained=untrained,
                longer=LONGER if direction.in_full else (),
                seeds=plan["seeds"],
                progress=progress,
                **common,
            ),
        ]
        corrections = [correction for contestant in contestants for correction in contestant.corrections]
        scores = judge(corrections, segmenter, evaluation)
        if direction.in_full:
            table, oracle = swept_alphas(segmenter, dictionary, selection, evaluation, direction.label)
            draft.save_table("alphas", table)
            scores = Scores.merged([scores, oracle])
            curve = learning_curve(
                lambda few, seed: fitted_contestants(
                    segmenter, dictionary, few, possible(CURVE, segmenter, **known), seeds=(seed,), **common
                ),
                contestants,
                selection,
                plan,
            )
            draft.save_table("curve", judge(curve, segmenter, evaluation).table)
        draft.save_table("scores", scores.table)
        draft.save_document("contestants", [_described(contestant) for contestant in contestants])

    name = f"adaptation/{direction.segmenter}-{direction.cohort}-{direction.label}"
    return part(study, name, "adaptation", inputs, make)


def learning_curve(
    contest: Callable[[SliceSet, int], Sequence[Contestant]],
    full: Sequence[Contestant],
    selection: SliceSet,
    plan: Mapping[str, Any],
) -> list[Correction]:
    """The main contestants, chosen on few patients; each is named ``size draw contestant``.

    Args:
        contest: chooses them on some slices, with a seed.
        full: contestants chosen on all patients; their seeds stand for draws.
        selection: slices for choosing.
        plan: draws by size.
    """
    corrections = [
        replace(correction, name=f"{selection.index['patient'].n_unique()} {draw} {contestant.name}")
        for contestant in full
        if contestant.name in (*CURVE, *FITTED_CEILINGS)
        for draw, correction in enumerate(contestant.corrections)
    ]
    counts = selection.index.group_by("patient").len()
    patients = sorted(counts.filter(pl.col("len") > 1)["patient"])  # settings are chosen by slice where there is one
    for draw in range(max(plan["draws"].values(), default=0)):
        order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(draw)).tolist()
        for size in [int(size) for size, draws in plan["draws"].items() if draw < draws]:
            if size >= len(patients):
                continue
            chosen = {patients[place] for place in order[:size]}
            few = selection.select([row for row, patient in enumerate(selection.index["patient"]) if patient in chosen])
            corrections += [
                replace(contestant.corrections[0], name=f"{size} {draw} {contestant.name}")
                for contestant in contest(few, draw)
            ]
    return corrections


def swept_alphas(
    segmenter: Segmenter, dictionary: SparseAutoencoder, selection: SliceSet, evaluation: SliceSet, target: str
) -> tuple[pl.DataFrame, Scores]:
    """ALS and MLS of the class's most associated latents over alpha, on the evaluation slices: a description.

    Returns:
        One row an operation, alpha and class with every figure; and the scores of the paper's oracle: the best alpha a
        slice by that slice's own mask, of either operation.
    """
    atlas = describe(dictionary, segmenter, selection, top_k=1)
    chosen = associated_latents(atlas, target)[:ASSOCIATED]
    grid = alpha_grid(dictionary, {"associated": chosen}, ALPHAS)  # type: ignore[arg-type]
    scores = sweep(segmenter, dictionary, evaluation, grid)
    rows = []
    for operation, values in ALPHAS.items():
        neutral = 1.0 if operation == "multiply" else 0.0
        for alpha in sorted({*values, neutral}):
            summary = scores.summary(UNEDITED if alpha == neutral else f"associated {operation} {alpha:g}")
            for name in (target, "foreground"):
                row = {"operation": operation, "alpha": alpha, "class": name}
                rows.append(row | {figure: summary[figure][name] for figure in FIGURES})
    table = pl.DataFrame(rows, schema_overrides=dict.fromkeys(FIGURES, pl.Float64))
    return table, oracle_scores(scores, list(grid), target=label_of(segmenter, target), name=ORACLE)


def _described(contestant: Contestant) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "side": contestant.side,
        "n_parameters": contestant.n_parameters,
        "supervision": contestant.corrections[0].supervision,
        "corrections": [correction.name for correction in contestant.corrections],
        "chosen": dict(contestant.chosen),
    }


def _left_out(study: Study, directions: Sequence[Direction]) -> list[str]:
    found = []
    if len({study.settings.segmenters[direction.segmenter].architecture for direction in directions}) < 2:
        found.append("another architecture: the study has none trained on the same cohort")
    if not any(not direction.in_full for direction in directions):
        found.append("a third cohort: no other one has the same labels")
    return found


_ALS = "Table 5, ALS; how alpha and latents were chosen, and how Dice is averaged, is not said"
EXPERIMENT = Experiment(
    name="adaptation",
    title="A segmenter on another population: latents against all that they must beat",
    paper="Table 5, Figure 8",
    run=run,
    parts=partial(by_direction, one_direction),
    version=8,
    figures=(
        Figure(
            kind="bars",
            table="policies",
            title="Pooled Dice of the foreground on other patients than those that policies are chosen on",
            x="policy",
            y="value",
            series="side",
            panel="direction",
            low="low",
            high="high",
            caption="Intervals over patients. Edits change latents; rivals do not; the ceiling fits every weight.",
            only={"class": ["foreground"], "figure": ["dice_pooled"]},
        ),
        Figure(
            kind="lines",
            table="labelled patients",
            title="Pooled Dice of the foreground by number of labelled patients",
            x="labelled patients",
            y="dice_pooled",
            series="policy",
            panel="direction",
            caption="Means over draws of patients; every choice was made on those patients alone.",
        ),
    ),
    published={
        "edema Dice (pooled), untouched, adult on pediatric": Published(0.394, "Table 5; how averaged is not said"),
        "edema Dice (pooled), constant edit, adult on pediatric": Published(0.742, _ALS),
        "edema Dice (pooled), untouched, pediatric on adult": Published(0.452, "Table 5; how averaged is not said"),
        "edema Dice (pooled), constant edit, pediatric on adult": Published(0.493, _ALS),
    },
    folded=("policies", "alphas"),
)
