"""Table 5 and Figure 8: a segmenter on another population, by latents and by all that they must beat.

Table ``policies`` wants bars with intervals, one panel a transfer; ``labelled patients`` (the learning curve) and
``alphas`` (ALS and MLS over alpha in [-100, 100]) want lines.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
import torch

from seglens.activations.live import live_activations
from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.controls import untrained_dictionary
from seglens.dictionaries.lens import Lens
from seglens.experiments.adaptation_latents import (
    DEEP,
    DEEP_SLICES,
    PLAIN,
    deep_dictionary,
    differing_in_words,
    differing_latents,
)
from seglens.experiments.adaptation_tables import (
    ORACLE,
    class_headlines,
    curve_rows,
    headlines,
    improvement_rows,
    paragraphs,
    policy_rows,
)
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, Published, part
from seglens.experiments.label_free_policies import few_of
from seglens.experiments.transfers import Transfer, by_transfer, patients_of, transfers_of
from seglens.runtime.progress import Progress
from seglens.segmenters.intervals import FIGURES
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import describe
from seglens.steering.adjustables import LAST_HIDDEN, with_last_hidden
from seglens.steering.attribution import associated_latents
from seglens.steering.comparison import (
    FITTED_CEILINGS,
    Method,
    constant_methods,
    fitted_methods,
    inner_dice,
    possible,
)
from seglens.steering.fitted import inner_split
from seglens.steering.interventions import Intervention, evaluate_interventions
from seglens.steering.policies import label_of, oracle_scores
from seglens.steering.records import InterventionRecord
from seglens.steering.sweep import UNEDITED, alpha_grid, sweep
from seglens.steering.test_time import unfitted
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
) -> ExperimentResult:
    """Every transfer: choose, judge, and compare over patients.

    Args:
        study: with at least one entry under ``steering``.
        progress: told after each transfer.
        seeds: of the final fits.
        sizes: labelled patients of the learning curve, beside all of them.
        draws: of so many patients, by size.
        steps: of every fit.
    """
    transfers = transfers_of(study)
    policies, curves, alphas, words = [], [], [], []
    for number, transfer in enumerate(transfers):
        found = adapted(study, transfer, plan_of(transfer, seeds, sizes, draws, steps))
        policies.append(
            policy_rows(
                Scores(found.table("scores")),
                found.record("methods", list[InterventionRecord]),
                transfer.name,
                transfer.label,
            )
        )
        words += differing_in_words(found.table("differing"), transfer.name)
        if transfer.in_full:
            inner = dict(found.table("curve_inner").iter_rows())
            curves.append(curve_rows(Scores(found.table("curve")), inner, transfer.name))
            alphas.append(found.table("alphas").with_columns(pl.lit(transfer.name).alias("transfer")))
        progress(number + 1, len(transfers))
    table, curve = pl.concat(policies), pl.concat(curves)
    improvements = pl.concat([improvement_rows(rows) for rows in policies])
    left_out = _left_out(study, transfers)
    return ExperimentResult(
        {
            "policies": table.drop("fits", "draws"),
            "improvements": improvements,
            "labelled patients": curve,
            "alphas": pl.concat(alphas),
        },
        headlines(improvements, curve) | class_headlines(table),
        [*paragraphs(improvements, curve, table, steps), *words],
        left_out,
    )


def plan_of(
    transfer: Transfer,
    seeds: Sequence[int] = SEEDS,
    sizes: Sequence[int] = SIZES,
    draws: Mapping[int, int] = DRAWS,
    steps: int = STEPS,
) -> dict[str, Any]:
    """Seeds, draws by size and steps of a transfer; JSON-able."""
    own = {str(size): draws.get(size, 2) for size in sizes} if transfer.in_full else {}
    return {"seeds": list(seeds), "draws": own, "steps": steps}


def one_transfer(study: Study, transfer: Transfer) -> None:
    """A transfer as `run` finds it."""
    adapted(study, transfer, plan_of(transfer))


def adapted(study: Study, transfer: Transfer, plan: Mapping[str, Any]) -> Artifact:
    """Methods of one transfer, chosen and judged, as an artifact of the run.

    It holds scores.parquet (all methods and seeds), methods.json, and in full curve.parquet and alphas.parquet.
    """
    dictionary = study.lens(transfer.segmenter).dictionary
    selection, evaluation = patients_of(study, transfer)
    inputs = dict(plan) | {
        "dictionary": dictionary.hash,
        "selection": selection.hash,
        "evaluation": evaluation.hash,
        "label": transfer.label,
        "in_full": transfer.in_full,
        "own": study.own_slices(transfer.segmenter, "val").hash,
        "deep": str(DEEP),
        "version": 7,
    }

    def make(draft: Draft, progress: Progress) -> None:
        segmenter = with_last_hidden(study.segmenter(transfer.segmenter), selection.images([0]).to(study.device))
        opened = {segmenter.place(name).module for name in (dictionary.hookpoint, LAST_HIDDEN)}
        deep = deep_dictionary(study, transfer.segmenter, segmenter) if len(opened) == 2 else None
        own, training = study.own_slices(transfer.segmenter, "val"), study.own_slices(transfer.segmenter, "train")
        seen = few_of(training, DEEP_SLICES)
        untrained = [
            untrained_dictionary(one, live_activations(segmenter, seen, one.hookpoint))
            for one in ([] if deep is None else [dictionary, deep])
        ]
        common: dict[str, Any] = {"target": transfer.label, "deep": deep, "steps": plan["steps"]}
        known = {"deep": deep is not None, "untrained": deep is not None}
        names = possible(FULL if transfer.in_full else SHORT, segmenter, **known)
        lens = Lens(segmenter, dictionary)
        differing = differing_latents(lens, own, selection)
        draft.save_table("differing", differing)
        specific = differing.filter(pl.col("compared") == PLAIN)["latent"].unique(maintain_order=True).to_list()
        unfitted_baselines = unfitted(
            segmenter, few_of(selection, UNLABELLED_SLICES), few_of(training, UNLABELLED_SLICES)
        )
        _, inner_slices = inner_split(selection)
        inner = inner_dice(unfitted_baselines, segmenter, inner_slices)
        methods = [
            *constant_methods(lens, selection, target=transfer.label, specific=specific),
            *(
                Method(baseline.name, "baseline", [baseline], {"inner_dice": inner[baseline.name]})
                for baseline in unfitted_baselines
            ),
            *fitted_methods(
                lens,
                selection,
                names,
                untrained=untrained,
                longer=LONGER if transfer.in_full else (),
                seeds=plan["seeds"],
                progress=progress,
                **common,
            ),
        ]
        interventions = [intervention for method in methods for intervention in method.interventions]
        scores = evaluate_interventions(interventions, segmenter, evaluation)
        if transfer.in_full:
            table, oracle = swept_alphas(lens, selection, evaluation, transfer.label)
            draft.save_table("alphas", table)
            scores = Scores.merged([scores, oracle])
            curve = learning_curve(
                lambda few, seed: fitted_methods(
                    lens, few, possible(CURVE, segmenter, **known), seeds=(seed,), **common
                ),
                methods,
                selection,
                plan,
            )
            drawn = [method.interventions[0] for method in curve]
            draft.save_table("curve", evaluate_interventions(drawn, segmenter, evaluation).table)
            of_curve = {"edit": [one.name for one in curve], "inner_dice": [one.chosen["inner_dice"] for one in curve]}
            draft.save_table(
                "curve_inner", pl.DataFrame(of_curve, schema={"edit": pl.String, "inner_dice": pl.Float64})
            )
        draft.save_table("scores", scores.table)
        untouched = InterventionRecord(UNEDITED, "baseline", 0, (UNEDITED,), None, {"inner_dice": inner[UNEDITED]})
        records = [untouched, *(_recorded(one) for one in methods)]
        draft.save_record("methods", records, list[InterventionRecord])

    name = f"adaptation/{transfer.segmenter}-{transfer.cohort}-{transfer.label}"
    return part(study, name, "adaptation", inputs, make)


def learning_curve(
    comparison: Callable[[SliceSet, int], Sequence[Method]],
    full: Sequence[Method],
    selection: SliceSet,
    plan: Mapping[str, Any],
) -> list[Method]:
    """The main methods, chosen on few patients, with one intervention each; named ``size draw method``.

    Args:
        comparison: chooses them on some slices, with a seed.
        full: methods chosen on all patients; their seeds stand for draws.
        selection: slices for choosing.
        plan: draws by size.
    """
    everyone = selection.index["patient"].n_unique()
    found = [
        _one_draw(method, intervention, f"{everyone} {draw} {method.name}")
        for method in full
        if method.name in (*CURVE, *FITTED_CEILINGS)
        for draw, intervention in enumerate(method.interventions)
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
            found += [
                _one_draw(method, method.interventions[0], f"{size} {draw} {method.name}")
                for method in comparison(few, draw)
            ]
    return found


def _one_draw(method: Method, intervention: Intervention, name: str) -> Method:
    return replace(method, name=name, interventions=[replace(intervention, name=name)])


def swept_alphas(lens: Lens, selection: SliceSet, evaluation: SliceSet, target: str) -> tuple[pl.DataFrame, Scores]:
    """ALS and MLS of the class's most associated latents over alpha, on the evaluation slices: a description.

    Returns:
        One row an operation, alpha and class with every figure; and the scores of the paper's oracle: the best alpha a
        slice by that slice's own mask, of either operation.
    """
    atlas = describe(lens, selection, top_k=1)
    chosen = associated_latents(atlas, target)[:ASSOCIATED]
    grid = alpha_grid(lens, {"associated": chosen}, ALPHAS)  # type: ignore[arg-type]
    scores = sweep(lens, evaluation, grid)
    rows = []
    for operation, values in ALPHAS.items():
        neutral = 1.0 if operation == "multiply" else 0.0
        for alpha in sorted({*values, neutral}):
            summary = scores.summary(UNEDITED if alpha == neutral else f"associated {operation} {alpha:g}")
            for name in (target, "foreground"):
                row = {"operation": operation, "alpha": alpha, "class": name}
                rows.append(row | {figure: summary.score(figure, name).value for figure in FIGURES})
    table = pl.DataFrame(rows, schema_overrides=dict.fromkeys(FIGURES, pl.Float64))
    return table, oracle_scores(scores, list(grid), target=label_of(lens.segmenter, target), name=ORACLE)


def _recorded(method: Method) -> InterventionRecord:
    return InterventionRecord(
        name=method.name,
        side=method.side,
        n_parameters=method.n_parameters,
        interventions=tuple(intervention.name for intervention in method.interventions),
        supervision=method.interventions[0].supervision,
        chosen=method.chosen,
    )


def _left_out(study: Study, transfers: Sequence[Transfer]) -> list[str]:
    found = []
    if len({study.settings.segmenters[transfer.segmenter].architecture for transfer in transfers}) < 2:
        found.append("another architecture: the study has none trained on the same cohort")
    if not any(not transfer.in_full for transfer in transfers):
        found.append("a third cohort: no other one has the same labels")
    return found


_ALS = "Table 5, ALS; how alpha and latents were chosen, and how Dice is averaged, is not said"
EXPERIMENT = Experiment(
    name="adaptation",
    title="A segmenter on another population: latents against all that they must beat",
    paper="Table 5, Figure 8",
    run=run,
    parts=partial(by_transfer, one_transfer),
    version=10,
    figures=(
        Figure(
            kind="bars",
            table="policies",
            title="Pooled Dice of the foreground on other patients than those that policies are chosen on",
            x="policy",
            y="value",
            series="side",
            panel="transfer",
            low="low",
            high="high",
            caption="Intervals over patients. Edits change latents; baselines do not; the ceiling fits every weight.",
            only={"class": ["foreground"], "figure": ["dice_pooled"]},
        ),
        Figure(
            kind="lines",
            table="labelled patients",
            title="Pooled Dice of the foreground by number of labelled patients",
            x="labelled patients",
            y="dice_pooled",
            series="policy",
            panel="transfer",
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
