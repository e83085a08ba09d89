"""``--policy auto``: is there a latent edit that beats every rival, as far as the labelled patients can tell?

Asked by cross-validation over the selection patients: everything is chosen on some of them and judged on the others.
An edit is taken only where its lead over the best rival excludes 0; nothing else is looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.progress import Progress, silent
from seglens.segmenters.intervals import Interval, patient_bootstrap, patient_interval
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.contest import STEPS, Contestant, Side, constant_contestants, fitted_contestants
from seglens.steering.corrections import Correction, judge

FOLDS = 3
NAMES = ("latents", "top_latents", "logit_affine", "channel_affine", "last_layer", "channels_and_layer")

Contest = Callable[[SliceSet], Sequence[Contestant]]
"""All contestants, chosen on these slices and on nothing else."""


@dataclass(frozen=True)
class Verdict:
    """What cross-validation over the selection patients says.

    Attributes:
        correction: the latent edit, fitted on all selection patients; None where no edit helps.
        edit: name of the best edit.
        rival: name of the best rival (the untouched network, ``none``, is one).
        lead: pooled foreground Dice of the edit minus that of the rival, with its interval over patients.
        chosen: JSON-able: what the edit that helps is made of; empty where none helps.
        table: one row a contestant: name, side, dice_pooled, low, high, on patients that it was not chosen on.
    """

    correction: Correction | None = field(repr=False)
    edit: str
    rival: str
    lead: Interval
    chosen: Mapping[str, Any]
    table: pl.DataFrame

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        n_edits = self.table.filter(pl.col("side") == "edit").height
        edit = f"the best of {n_edits} edits, {self.edit},"
        rival = f"the best of {self.table.height - n_edits} rivals, {self.rival}"
        lead = f"{self.lead.value:+.3f} [{self.lead.low:+.3f}, {self.lead.high:+.3f}] pooled foreground Dice"
        patients = f"over {self.lead.n_patients} patients, cross-validated"
        if self.correction is None:
            return f"no edit helps: {edit} against {rival}: {lead} {patients}"
        return f"{edit} beats {rival}, by {lead} {patients}"


def choose_correction(
    segmenter: Segmenter,
    dictionary: SparseAutoencoder,
    selection: SliceSet,
    *,
    target: str,
    contest: Contest | None = None,
    folds: int = FOLDS,
    steps: int = STEPS,
    draws: int = 2000,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Verdict:
    """Choose a latent edit by the held-out rule, or say that none helps.

    Args:
        segmenter: of another cohort.
        dictionary: of one of its hookpoints.
        selection: labelled slices of the target cohort, of at least ``folds`` patients with 2 slices or more.
        target: name of the class that ranks latents.
        contest: chooses contestants; None takes constant edits, fitted latents and all rivals with few parameters.
        folds: of the cross-validation by patient.
        steps: of every fit.
        draws: of the bootstrap over patients.
        seed: of fits and bootstrap.
        batch_size: slices at once.
        progress: told after each fold.

    Raises:
        ValueError: too few patients.
    """

    def every(slices: SliceSet) -> list[Contestant]:
        fitted = fitted_contestants(segmenter, dictionary, slices, NAMES, target=target, steps=steps, seeds=(seed,))
        return [*constant_contestants(segmenter, dictionary, slices, target=target, batch_size=batch_size), *fitted]

    chosen_on = contest or every
    patients = sorted(selection.index["patient"].unique())
    if len(patients) < folds or folds < 2:
        raise ValueError(
            f"{len(patients)} labelled patients of {selection.name!r}; {folds} folds need as many, at least 2"
        )
    parts: list[Scores] = []
    sides: dict[str, Side] = {}
    for fold in range(folds):
        judged = _of(selection, patients[fold::folds])
        others = _of(selection, [patient for patient in patients if patient not in patients[fold::folds]])
        found = chosen_on(others)
        sides |= {contestant.name: contestant.side for contestant in found}
        scored = judge([contestant.corrections[0] for contestant in found], segmenter, judged, batch_size=batch_size)
        parts.append(_renumbered(scored, selection, patients[fold::folds]))
        progress(fold + 1, folds + 1)
    scores = Scores.merged(parts)
    value = {name: scores.summary(name)["dice_pooled"]["foreground"] or 0.0 for name in ("none", *sides)}
    edits = [name for name, side in sides.items() if side == "edit"]
    rivals = ["none", *(name for name, side in sides.items() if side == "rival")]
    edit, rival = max(edits, key=lambda name: value[name]), max(rivals, key=lambda name: value[name])
    lead = patient_bootstrap(scores, edit, rival, draws=draws, seed=seed)
    winner = next(one for one in chosen_on(selection) if one.name == edit) if lead.low > 0 else None
    progress(folds + 1, folds + 1)
    rows = []
    for name in ("none", *sides):
        interval = patient_interval(scores, name, draws=draws, seed=seed)
        row = {"name": name, "side": sides.get(name, "rival"), "dice_pooled": interval.value}
        rows.append(row | {"low": interval.low, "high": interval.high})
    correction, chosen = (winner.corrections[0], winner.chosen) if winner else (None, {})
    return Verdict(correction, edit, rival, lead, chosen, pl.DataFrame(rows).sort("dice_pooled", descending=True))


def _of(slices: SliceSet, patients: Sequence[str]) -> SliceSet:
    chosen = set(patients)
    return slices.select([row for row, patient in enumerate(slices.index["patient"]) if patient in chosen])


def _renumbered(scores: Scores, whole: SliceSet, patients: Sequence[str]) -> Scores:
    """Scores of some patients with the row numbers of the whole set."""
    chosen = set(patients)
    rows = pl.Series([row for row, patient in enumerate(whole.index["patient"]) if patient in chosen], dtype=pl.UInt32)
    return Scores(scores.table.with_columns(rows.gather(scores.table["row"]).alias("row")))
