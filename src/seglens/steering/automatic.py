"""``seglens verdict``: is there a latent edit that beats every baseline, as far as the labelled patients can tell?

Asked by cross-validation over the selection patients: everything is chosen on some of them and judged on the others.
An edit is taken only where its improvement over the best baseline excludes 0; nothing else is looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.intervals import Interval, patient_bootstrap, patient_interval
from seglens.segmenters.scoring import Scores
from seglens.steering.comparison import STEPS, Method, Side, constant_methods, fitted_methods
from seglens.steering.interventions import Intervention, evaluate_interventions

FOLDS = 3
NAMES = ("latents", "top_latents", "logit_affine", "channel_affine", "last_layer", "channels_and_layer")

Comparison = Callable[[SliceSet], Sequence[Method]]
"""All methods, chosen on these slices and on nothing else."""


@dataclass(frozen=True)
class Verdict:
    """Verdict of cross-validation over the selection patients.

    Attributes:
        intervention: the latent edit, fitted on all selection patients; None where no edit helps.
        edit: name of the best edit.
        baseline: name of the best baseline (the untouched network, ``none``, is one).
        improvement: pooled foreground Dice of the edit minus that of the baseline, with its interval over patients.
        chosen: JSON-able: what the edit that helps is made of; empty where none helps.
        table: one row a method: name, side, dice_pooled, low, high, on patients that it was not chosen on.
    """

    intervention: Intervention | None = field(repr=False)
    edit: str
    baseline: str
    improvement: Interval
    chosen: Mapping[str, Any]
    table: pl.DataFrame

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        n_edits = self.table.filter(pl.col("side") == "edit").height
        edit = f"the best of {n_edits} edits, {self.edit},"
        baseline = f"the best of {self.table.height - n_edits} baselines, {self.baseline}"
        by = self.improvement
        improvement = f"{by.value:+.3f} [{by.low:+.3f}, {by.high:+.3f}] pooled foreground Dice"
        patients = f"over {by.n_patients} patients, cross-validated"
        if self.intervention is None:
            return f"no edit helps: {edit} against {baseline}: {improvement} {patients}"
        return f"{edit} beats {baseline}, by {improvement} {patients}"


def choose_intervention(
    lens: Lens,
    selection: SliceSet,
    *,
    target: str,
    comparison: Comparison | None = None,
    folds: int = FOLDS,
    steps: int = STEPS,
    draws: int = 2000,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Verdict:
    """Choose a latent edit by the held-out rule, or say that none helps.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        selection: labelled slices of the target cohort, of at least ``folds`` patients with 2 slices or more.
        target: name of the class that ranks latents.
        comparison: chooses methods; None takes constant edits, fitted latents and all baselines with few parameters.
        folds: of the cross-validation by patient.
        steps: of every fit.
        draws: of the bootstrap over patients.
        seed: of fits and bootstrap.
        batch_size: slices at once.
        progress: told after each fold.

    Raises:
        ValueError: too few patients.
    """

    def every(slices: SliceSet) -> list[Method]:
        fitted = fitted_methods(lens, slices, NAMES, target=target, steps=steps, seeds=(seed,))
        return [*constant_methods(lens, slices, target=target, batch_size=batch_size), *fitted]

    chosen_on = comparison or every
    patients = sorted(selection.index["patient"].unique())
    if len(patients) < folds or folds < 2:
        raise ValueError(
            f"{len(patients)} labelled patients of {selection.name!r}; {folds} folds need as many, at least 2"
        )
    parts: list[Scores] = []
    sides: dict[str, Side] = {}
    for fold in range(folds):
        evaluated = _of(selection, patients[fold::folds])
        others = _of(selection, [patient for patient in patients if patient not in patients[fold::folds]])
        found = chosen_on(others)
        sides |= {method.name: method.side for method in found}
        scored = evaluate_interventions(
            [method.interventions[0] for method in found], lens.segmenter, evaluated, batch_size=batch_size
        )
        parts.append(_renumbered(scored, selection, patients[fold::folds]))
        progress(fold + 1, folds + 1)
    scores = Scores.merged(parts)
    value = scores.pooled_by_edit()
    edits = [name for name, side in sides.items() if side == "edit"]
    baselines = ["none", *(name for name, side in sides.items() if side == "baseline")]
    edit, baseline = max(edits, key=lambda name: value[name]), max(baselines, key=lambda name: value[name])
    improvement = patient_bootstrap(scores, edit, baseline, draws=draws, seed=seed)
    winner = next(one for one in chosen_on(selection) if one.name == edit) if improvement.low > 0 else None
    progress(folds + 1, folds + 1)
    rows = []
    for name in ("none", *sides):
        interval = patient_interval(scores, name, draws=draws, seed=seed)
        row = {"name": name, "side": sides.get(name, "baseline"), "dice_pooled": interval.value}
        rows.append(row | {"low": interval.low, "high": interval.high})
    intervention, chosen = (winner.interventions[0], winner.chosen) if winner else (None, {})
    return Verdict(
        intervention, edit, baseline, improvement, chosen, pl.DataFrame(rows).sort("dice_pooled", descending=True)
    )


def _of(slices: SliceSet, patients: Sequence[str]) -> SliceSet:
    chosen = set(patients)
    return slices.select([row for row, patient in enumerate(slices.index["patient"]) if patient in chosen])


def _renumbered(scores: Scores, whole: SliceSet, patients: Sequence[str]) -> Scores:
    """Scores of some patients with the row numbers of the whole set."""
    chosen = set(patients)
    rows = pl.Series([row for row, patient in enumerate(whole.index["patient"]) if patient in chosen], dtype=pl.UInt32)
    return Scores(scores.table.with_columns(rows.gather(scores.table["row"]).alias("row")))
