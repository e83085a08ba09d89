"""A segmenter on another population: chosen on some of its patients, judged on others, beside every baseline.

Paper, section 7 and Table 5, with the controls that it lacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, get_args

import numpy as np
import polars as pl
import torch

from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, part_of, silent
from seglens.segmenters.inference import all_batches
from seglens.segmenters.intervals import interval_of, resampled
from seglens.segmenters.score_summary import ScoreSummary
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.shapes import Images, Logits, TokenGrid
from seglens.steering.baselines import (
    TUNING_BYTES,
    CountObjective,
    Rule,
    Tuned,
    drop_class,
    flip_logits,
    predict_nothing,
    tune_rules,
)
from seglens.steering.edits import LatentEdit, change_of, check_edits
from seglens.steering.policies import ALPHAS, N_LATENTS, choose_edit, label_of, oracle_scores
from seglens.steering.records import Extent, GainRecord, Policy, SteeringRecord
from seglens.steering.searching import NEUTRAL, random_searches
from seglens.steering.shared_codes import SharedCodes
from seglens.steering.sweep import UNEDITED, RowChange, always, identity_edit, sweep_changes

OPERATIONS = ("multiply", "add")


@dataclass(frozen=True)
class SteeringResult:
    """Result of steering one class of one segmenter on one cohort.

    Attributes:
        results: one record a policy and operation, best held-out first.
        curves: figures over alpha on the evaluation slices, a description and never a selection: operation, latents
            ("chosen", or "random": the mean over the draws),
            alpha (the neutral one is the untouched network), class (the target, "foreground"),
            dice_pooled, dice_sampled, dice_slice_present, dice_slice_empty1, precision, recall.
        selection: what was tried on the selection slices (see ChosenEdit).
        scores: the counts on the evaluation slices behind all of it (see Scores).
    """

    results: list[SteeringRecord]
    curves: pl.DataFrame
    selection: pl.DataFrame
    scores: pl.DataFrame

    def write(self, draft: Draft) -> None:
        """Write into an artifact of kind ``"steering"``."""
        draft.save_record("results", self.results, list[SteeringRecord])
        for name in ("curves", "selection", "scores"):
            draft.save_table(name, getattr(self, name))

    @classmethod
    def read(cls, artifact: Artifact) -> "SteeringResult":
        """Read what ``write`` wrote."""
        tables = [artifact.table(name) for name in ("curves", "selection", "scores")]
        return cls(artifact.record("results", list[SteeringRecord]), *tables)


def steer_between(
    lens: Lens,
    atlas: LatentAtlas,
    selection: SliceSet,
    evaluation: SliceSet,
    *,
    target: str,
    source: str = "",
    n_latents: Sequence[int] = N_LATENTS,
    alphas: Mapping[str, Sequence[float]] = ALPHAS,
    random_draws: int = 2,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = silent,
) -> SteeringResult:
    """Choose an edit of one class on selection patients and judge it on others, beside every policy and baseline.

    Baselines: CCF, UF, per-class logit bias, dropping the class, predicting nothing, mirror test-time augmentation,
    replacing the whole activation by its mean, the dictionary's reconstruction alone, and random latents of the same
    firing rates, searched as freely as the edit's: ``random_latents`` is the mean over the draws, ``random_best`` the
    draw that is best on the selection slices. All are tuned on the selection slices.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        atlas: of that dictionary.
        selection: labelled slices of the target cohort, from which everything is chosen.
        evaluation: slices of other patients of it, on which everything is judged.
        target: name of the class.
        source: name of the segmenter in the results.
        n_latents: how many latents to try together.
        alphas: values of ``multiply`` (MLS) and ``add`` (ALS), in the dictionary's scaled units.
        random_draws: searches over random latents; each takes as long as the search for the edit.
        batch_size: slices at once.
        seed: of the random latents.
        progress: told as batches are done.

    Raises:
        ValueError: a patient in both sets, or parts that do not belong together.
    """
    check_disjoint(selection, evaluation)
    check_edits(lens)
    label = label_of(lens.segmenter, target)
    steps = len(selection) + len(evaluation)
    chosen = choose_edit(
        lens,
        atlas,
        selection,
        target=target,
        n_latents=n_latents,
        alphas=alphas,
        batch_size=batch_size,
        progress=part_of(progress, 0, steps),
    )
    tuned = tune_on(lens.segmenter, selection, target=label, batch_size=batch_size)
    drawn = random_searches(
        lens,
        selection,
        chosen,
        draws=random_draws,
        objective=lambda scores: scores.pooled_by_edit(target),
        seed=seed,
        batch_size=batch_size,
    )
    edits: dict[str, LatentEdit] = {}
    points: list[dict[str, Any]] = []
    for operation, edit in chosen.by_operation.items():
        prefixes = {"chosen": ["chosen"], "random": [f"random {draw}" for draw in range(random_draws)]}
        latents = {"chosen": edit.latents}
        latents |= {f"random {draw}": found.by_operation[operation].latents for draw, found in enumerate(drawn)}
        for kind, names in prefixes.items():
            for alpha in alphas[operation] if edit.latents else ():
                point = {name: f"{name} {operation} {alpha:g}" for name in names}
                for name, key in point.items():
                    edits[key] = LatentEdit(lens.hookpoint, lens.dictionary_hash, latents[name], operation, alpha)
                points.append(
                    {"operation": operation, "latents": kind, "alpha": float(alpha), "edits": [*point.values()]}
                )
            points.append({"operation": operation, "latents": kind, "alpha": NEUTRAL[operation], "edits": [UNEDITED]})
    scores = _evaluated(
        lens,
        evaluation,
        edits,
        label=label,
        tuned=tuned,
        batch_size=batch_size,
        progress=part_of(progress, len(selection), steps),
    )
    tables = [scores]
    for operation in chosen.by_operation:
        for kind in ("chosen", *(f"random {draw}" for draw in range(random_draws))):
            among = [name for name in edits if name.startswith(f"{kind} {operation} ")]
            tables.append(oracle_scores(scores, among, target=label, name=f"oracle {kind} {operation}"))
    on_selected = _evaluated(lens, selection, {}, label=label, tuned=tuned, batch_size=batch_size, progress=silent)
    value_of = on_selected.pooled_by_edit(target)
    best_baseline = max((name for name in (*tuned, *BASELINES) if name != RECONSTRUCTION), key=value_of.__getitem__)
    scores = Scores.merged(tables)
    gains = _Gains(scores, target)
    summaries = scores.summaries()
    shared = {name: summaries[name] for name in summaries if name in (*tuned, *BASELINES)}
    results = []
    for policy in get_args(Policy):
        for operation, edit in sorted(chosen.by_operation.items(), key=lambda item: item[1] != chosen.edit):
            own = [found.by_operation[operation] for found in drawn]
            on_selection = [found.value_of(one) for found, one in zip(drawn, own, strict=True)]
            held_out = policy == "held_out"
            if held_out:
                after = UNEDITED if edit.is_identity else f"chosen {operation} {edit.value:g}"
                of_draws = [
                    UNEDITED if one.is_identity else f"random {draw} {operation} {one.value:g}"
                    for draw, one in enumerate(own)
                ]
            else:
                after = f"oracle chosen {operation}"
                of_draws = [f"oracle random {draw} {operation}" for draw in range(random_draws)]
            random_edits: dict[str, list[str]] = {}
            if of_draws:
                best = max(range(random_draws), key=lambda draw: on_selection[draw])
                random_edits = {"random_latents": of_draws, "random_best": [of_draws[best]]}
            random = {name: ScoreSummary.mean([summaries[one] for one in own]) for name, own in random_edits.items()}
            results.append(
                SteeringRecord(
                    source=source,
                    target=evaluation.name,
                    class_name=target,
                    policy=policy,
                    operation=edit.operation,
                    edit=edit.name if held_out else f"{operation}, best alpha a slice",
                    edit_description=edit.description(),
                    latents=edit.latents,
                    alpha=edit.value if held_out else None,
                    is_identity=edit.is_identity if held_out else not edit.latents,
                    chosen=edit == chosen.edit,
                    chosen_by=chosen.chosen_by(edit) if held_out else ORACLE_CHOICE,
                    before=summaries[UNEDITED],
                    after=summaries[after],
                    baselines=shared | random,
                    best_baseline=best_baseline,
                    gains={name: gains.over(after, [name]) for name in (UNEDITED, *shared)}
                    | {name: gains.over(after, own) for name, own in random_edits.items()},
                    settings={name: rule.setting for name, rule in tuned.items()},
                    selection=_extent(selection),
                    evaluation=_extent(evaluation),
                    firing_rate=chosen.firing_rate(edit),
                    random_firing_rates=tuple(found.firing_rate(one) for found, one in zip(drawn, own, strict=True)),
                )
            )
    return SteeringResult(results, _curves(points, summaries, target), chosen.selection, scores.table)


ORACLE_CHOICE = "held_out, best alpha a slice by that slice's own Dice"
RECONSTRUCTION = "reconstruct_only"
"""Among `BASELINES`; a control of the edit, not something that stands without latents."""
BASELINES = ("drop_class", "predict_nothing", "flip_augmentation", "mean_ablation", RECONSTRUCTION)


class _Gains:
    """Differences in pooled Dice of a class, all on the same draws of patients."""

    def __init__(self, scores: Scores, target: str):
        self._scores = scores
        self._target = target
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def over(self, edit: str, others: Sequence[str]) -> GainRecord:
        """Of an edit over the mean of others."""
        for name in {edit, *others} - set(self._known):
            self._known[name] = resampled(self._scores, [name], self._target)
        (value, drawn), *rest = (self._known[name] for name in (edit, *others))
        against = np.mean([one for one, _ in rest], axis=0), np.mean([draws for _, draws in rest], axis=0)
        n_patients = self._scores.table["patient"].n_unique()
        return GainRecord.of(interval_of(float((value - against[0])[0]), (drawn - against[1])[0], n_patients))


def check_disjoint(selection: SliceSet, evaluation: SliceSet) -> None:
    """Refuse a patient in both sets.

    Raises:
        ValueError: names the patients; or an empty set.
    """
    if not len(selection) or not len(evaluation):
        raise ValueError(f"{len(selection)} selection and {len(evaluation)} evaluation slices; both sets need some")
    both = sorted(set(selection.index["patient"]) & set(evaluation.index["patient"]))
    if both:
        raise ValueError(
            f"patients {', '.join(both[:5])} ({len(both)}) are in the selection and in the evaluation slices; "
            "split by patient, what is chosen on a patient must not be judged on them"
        )


def tune_on(
    segmenter: Segmenter,
    selection: SliceSet,
    *,
    target: int | None,
    objective: CountObjective | None = None,
    batch_size: int = 16,
) -> dict[str, Tuned]:
    """Tune the output-level rules (see `tune_rules`) on evenly spaced slices, as many as fit in 256 MiB."""
    most = max(batch_size, TUNING_BYTES // (4 * segmenter.n_classes * prod(selection.size)))
    used = selection.select(evenly_spaced(len(selection), most))
    logits = all_batches(lambda _rows, images: segmenter.logits(images).cpu(), segmenter, used, batch_size=batch_size)
    return tune_rules(torch.cat(logits), used.masks(), target=target, objective=objective)


def whole_activation(lens: Lens) -> dict[str, RowChange]:
    """Controls that choose no latents: the activation replaced by its mean, or by what the dictionary makes of it."""

    def to_mean(grid: TokenGrid) -> TokenGrid:
        return lens.dictionary.centre.to(grid.dtype).expand_as(grid)

    return {
        "mean_ablation": always(to_mean),
        RECONSTRUCTION: always(change_of(lens.dictionary, [identity_edit(lens, replace=True)])),
    }


def _evaluated(
    lens: Lens,
    evaluation: SliceSet,
    edits: Mapping[str, LatentEdit],
    *,
    label: int,
    tuned: Mapping[str, Tuned],
    batch_size: int,
    progress: Progress,
) -> Scores:
    def flipped(images: Images) -> Logits:
        return flip_logits(lens.segmenter, images)

    shared = SharedCodes(lens.dictionary)
    changes: dict[str, RowChange] = {
        name: always(change_of(lens.dictionary, [edit], shared=shared)) for name, edit in edits.items()
    }
    changes |= whole_activation(lens)
    rules: dict[str, Rule] = {name: rule.rule for name, rule in tuned.items()}
    rules |= {"drop_class": drop_class(label), "predict_nothing": predict_nothing}
    return sweep_changes(
        lens.segmenter,
        lens.hookpoint,
        evaluation,
        changes,
        rules=rules,
        passes={"flip_augmentation": flipped},
        batch_size=batch_size,
        progress=progress,
    )


def _curves(points: Sequence[Mapping[str, Any]], summaries: Mapping[str, ScoreSummary], target: str) -> pl.DataFrame:
    figures = ("dice_pooled", "dice_sampled", "dice_slice_present", "dice_slice_empty1", "precision", "recall")
    rows = []
    for point in points:
        if not point["edits"]:  # no draw was asked for
            continue
        found = ScoreSummary.mean([summaries[name] for name in point["edits"]])
        for name in (target, "foreground"):
            row = {key: point[key] for key in ("operation", "latents", "alpha")} | {"class": name}
            rows.append(row | {figure: found.score(figure, name).value for figure in figures})
    schema = {"operation": pl.String, "latents": pl.String, "alpha": pl.Float64, "class": pl.String}
    table = pl.DataFrame(rows, schema=schema | dict.fromkeys(figures, pl.Float64))
    return table.unique(maintain_order=True).sort("operation", "latents", "class", "alpha")


def _extent(slices: SliceSet) -> Extent:
    return Extent(slices.name, slices.index["patient"].n_unique(), len(slices))
