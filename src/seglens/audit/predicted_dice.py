"""Predicted Dice of volumes without masks: a regression, measured on patients and kinds of hospital it did not see.

It is fitted to the source's volumes and to those of virtual hospitals, whose masks are known too. Everything that is
fitted (scaling, components, temperature) is fitted without the fold of patients and the kind of hospital that it is
measured on. Intervals are cross-conformal (Barber et al., Annals of Statistics 2021, without their factor of 2): the
quantile of what was wrong with such predictions, on the scale of the logit, one share a hospital; without virtual
hospitals one share a patient. They cover shifts like those simulated; for others nothing is guaranteed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int64

from seglens.audit.hospitals import SOURCE
from seglens.audit.ladder import CONSTANT, RUNGS, Rung, rung_of
from seglens.audit.metrics import Coverage, Detection, DiceErrors, detection, dice_errors, interval_coverage
from seglens.audit.volume_table import VolumeTable

LEVEL = 0.9
"""Of intervals."""
MIN_UNITS = 9
"""Patients or hospitals for an interval of 90%: fewer have no quantile that high."""
MIN_LABELLED = 4
"""Patients of the source with a true Dice."""
LOWEST, HIGHEST = 0.01, 0.99
"""Dice is kept within before its logit is taken."""
MAX_DEVIATION = 4.0
"""Standard deviations of the source beyond which a feature is not followed any further."""
PENALTIES = tuple(10.0**power for power in (-1, 0, 1, 2, 3, 4))
FAILURE_QUANTILE = 0.1
"""Of the source's Dice: what lies below is a failure."""


def logit(dice: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log odds of a Dice, which is kept off 0 and 1."""
    kept = np.clip(dice, LOWEST, HIGHEST)
    return np.log(kept / (1 - kept))


def dice_of(odds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The inverse of `logit`."""
    return 1 / (1 + np.exp(-odds))


def regress(
    features: Float[np.ndarray, "n p"], rows: Int64[np.ndarray, " k"], dice: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " n"]:
    """Ridge regression of the Dice's logit on standardised features; the median where there are none.

    Args:
        features: of all volumes; NaN is the mean of ``rows``.
        rows: that are fitted to.
        dice: true, of these.

    Returns:
        Predicted Dice of all volumes.
    """
    from sklearn.linear_model import RidgeCV

    known = ~np.isnan(features[rows])
    n_known = np.maximum(known.sum(0), 1)
    centre = np.where(known, features[rows], 0.0).sum(0) / n_known
    spread = np.sqrt((np.where(known, features[rows] - centre, 0.0) ** 2).sum(0) / n_known)
    usable = spread > 1e-9
    if not usable.any() or len(rows) < 4:
        return np.full(len(features), float(np.median(dice)))
    scaled = (features[:, usable] - centre[usable]) / spread[usable]
    scaled = np.clip(np.nan_to_num(scaled, nan=0.0), -MAX_DEVIATION, MAX_DEVIATION)
    model = RidgeCV(PENALTIES).fit(scaled[rows], logit(dice))
    return dice_of(model.predict(scaled))


@dataclass(frozen=True)
class RungScore:
    """Worth of a rung of the ladder, each volume predicted without its patients' fold and its kind of hospital.

    Attributes:
        rung: its name.
        errors: of the predicted Dice, over the source and all virtual hospitals.
        within: the same over the source alone.
        cohorts: mean absolute error of the mean Dice of a hospital; NaN without virtual hospitals.
        failures: as a detector of failing volumes, over all hospitals.
        coverage: of its intervals, over all hospitals.
        predicted: of each labelled volume, in their order.
    """

    rung: str
    errors: DiceErrors
    within: DiceErrors
    cohorts: float
    failures: Detection
    coverage: Coverage
    predicted: Float[np.ndarray, " n"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class DicePrediction:
    """Predicted Dice of a target, and what the prediction is worth.

    Attributes:
        chosen: rung that the target is predicted by: the least mean absolute error over all hospitals.
        nested: score of the whole procedure: the rung of each volume is chosen by the errors of other folds and kinds.
        ladder: score of every rung.
        shuffled: score of the chosen rung where true Dice are given to other volumes at random: chance.
        threshold: Dice below which a volume fails.
        labelled: rows of the table with a true Dice.
        target: predicted Dice.
        low: lower ends of the target's intervals; NaN where there are too few units.
        high: upper ends.
        failing: share of the errors that would take the volume below the threshold, 0..1.
        reach: how far the mean Dice of a left-out hospital is from its estimate, in 9 of 10; NaN of too few hospitals.
        n_patients: of the source.
        n_hospitals: virtual ones.
    """

    chosen: str
    nested: RungScore
    ladder: tuple[RungScore, ...]
    shuffled: RungScore
    threshold: float
    labelled: Int64[np.ndarray, " n"]
    target: Float[np.ndarray, " t"]
    low: Float[np.ndarray, " t"]
    high: Float[np.ndarray, " t"]
    failing: Float[np.ndarray, " t"]
    reach: float
    n_patients: int
    n_hospitals: int


def predict_dice(
    source: VolumeTable, target: VolumeTable, *, threshold: float | None = None, seed: int = 0
) -> DicePrediction:
    """Fit the ladder to the source, and its virtual hospitals, and predict the target.

    Args:
        source: with masks and folds; volumes of virtual hospitals may stand beside it.
        target: its masks, if any, are not looked at.
        threshold: Dice below which a volume fails; None: the `FAILURE_QUANTILE` of the source's.
        seed: of the shuffled control.

    Raises:
        ValueError: fewer than 4 patients of the source have a true Dice.
    """
    from sklearn import config_context

    dice = source.values(["truth.dice"])[:, 0] if "truth.dice" in source.rows.columns else np.full(len(source), np.nan)
    rows = np.flatnonzero(~np.isnan(dice))
    patients = source.rows["patient"].to_numpy()[rows]
    plain = source.hospitals[rows] == SOURCE
    if len(set(patients[plain])) < MIN_LABELLED:
        raise ValueError(
            f"{len(set(patients[plain]))} patients of the source have a mask with something in it; Dice is predicted "
            f"from at least {MIN_LABELLED}: give a source with more labelled patients"
        )
    both = source.beside(target)
    work = _Work(both, rows, dice[rows], both.folds[rows], patients, both.kinds[rows], both.hospitals[rows])
    limit = float(np.quantile(work.dice[plain], FAILURE_QUANTILE)) if threshold is None else threshold
    with config_context(assume_finite=True, skip_parameter_validation=True):  # hundreds of small fits
        whole = {rung.name: work.left_out(rung) for rung in RUNGS}
        chosen = _best(whole, work.dice, np.ones(len(rows), bool))
        nested = np.zeros(len(rows))
        for cell in work.cells():
            elsewhere = (work.folds != work.folds[cell[0]]) & ((work.kinds != work.kinds[cell[0]]) | plain)
            nested[cell] = whole[_best(whole, work.dice, elsewhere)][cell]
        predicted = work.fitted(rung_of(chosen), np.arange(len(rows)))[len(source) :]
        mixed = replace(work, dice=np.random.default_rng(seed).permutation(work.dice))
        shuffled = mixed.left_out(rung_of(chosen))
    wrong = logit(work.dice) - logit(whole[chosen])
    reach = unit_quantile(np.abs(wrong), work.units)
    off = np.abs(work.by_hospital(whole[chosen] - work.dice))
    return DicePrediction(
        chosen,
        work.score("chosen elsewhere", nested, limit),
        tuple(work.score(rung.name, whole[rung.name], limit) for rung in RUNGS),
        mixed.score("shuffled", shuffled, limit),
        limit,
        rows,
        predicted,
        dice_of(logit(predicted) - reach),
        dice_of(logit(predicted) + reach),
        (logit(predicted)[:, None] + wrong < logit(np.array([limit]))).mean(1),
        unit_quantile(off, np.arange(len(off))),
        len(set(patients[plain])),
        len(set(work.hospitals[~plain])),
    )


def _best(
    predictions: "dict[str, Float[np.ndarray, ' n']]", dice: Float[np.ndarray, " n"], where: Bool[np.ndarray, " n"]
) -> str:
    """The rung of least mean absolute error; of equal ones the first."""
    return min(predictions, key=lambda name: float(np.abs(predictions[name] - dice)[where].mean()))


@dataclass(frozen=True, eq=False)
class _Work:
    """The labelled volumes, in a table with the target's behind them."""

    table: VolumeTable
    rows: Int64[np.ndarray, " n"]
    dice: Float[np.ndarray, " n"]
    folds: Int64[np.ndarray, " n"]
    patients: np.ndarray
    kinds: np.ndarray
    hospitals: np.ndarray

    @property
    def units(self) -> np.ndarray:
        """Exchangeable units: hospitals where there are virtual ones, else patients."""
        return self.patients if (self.kinds == SOURCE).all() else self.hospitals

    def cells(self) -> Iterator[Int64[np.ndarray, " k"]]:
        """The volumes of one fold and one kind of hospital."""
        for fold in np.unique(self.folds):
            for kind in np.unique(self.kinds):
                cell = np.flatnonzero((self.folds == fold) & (self.kinds == kind))
                if len(cell):
                    yield cell

    def fitted(self, rung: Rung, among: Int64[np.ndarray, " k"]) -> Float[np.ndarray, " m"]:
        """Predicted Dice of the whole table by a rung that is fitted to some of the volumes.

        A constant is the source's, whatever virtual hospitals there are.
        """
        if rung.name == CONSTANT:
            among = among[self.kinds[among] == SOURCE]
        own = self.rows[among]
        return regress(rung.features(self.table, own), own, self.dice[among])

    def left_out(self, rung: Rung) -> Float[np.ndarray, " n"]:
        """Predicted Dice of each volume, fitted to other folds, and to other kinds of hospital than its own."""
        found = np.zeros(len(self.rows))
        if len(np.unique(self.folds)) == 1:
            return np.full(len(self.rows), float(np.median(self.dice)))
        for cell in self.cells():
            kind = self.kinds[cell[0]]
            rest = np.flatnonzero((self.folds != self.folds[cell[0]]) & ((self.kinds != kind) | (kind == SOURCE)))
            found[cell] = self.fitted(rung, rest)[self.rows[cell]]
        return found

    def by_hospital(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " h"]:
        """Mean of each virtual hospital; of none an empty array."""
        names, owner = np.unique(self.hospitals, return_inverse=True)
        means = np.bincount(owner, weights=values) / np.bincount(owner)
        return means[names != SOURCE]

    def score(self, name: str, predicted: Float[np.ndarray, " n"], threshold: float) -> RungScore:
        """Score of predictions, each made without its cell; intervals by the errors of other folds."""
        blind, plain = self.left_out(rung_of(CONSTANT)), self.kinds == SOURCE
        low, high = np.full(len(self.dice), np.nan), np.full(len(self.dice), np.nan)
        wrong = np.abs(logit(self.dice) - logit(predicted))
        for cell in self.cells():
            kind = self.kinds[cell[0]]
            rest = (self.folds != self.folds[cell[0]]) & ((self.kinds != kind) | (kind == SOURCE))
            reach = unit_quantile(wrong[rest], self.units[rest])
            low[cell], high[cell] = dice_of(logit(predicted[cell]) - reach), dice_of(logit(predicted[cell]) + reach)
        off = np.abs(self.by_hospital(predicted - self.dice))
        return RungScore(
            name,
            dice_errors(predicted, self.dice, blind),
            dice_errors(predicted[plain], self.dice[plain], blind[plain]),
            float(off.mean()) if len(off) else float("nan"),
            detection(predicted, self.dice < threshold),
            interval_coverage(low, high, self.dice),
            predicted,
        )


def unit_quantile(wrong: Float[np.ndarray, " n"], units: np.ndarray) -> float:
    """The conformal quantile at `LEVEL` of absolute errors, one share a unit; NaN of too few units.

    Of n units (patients, or hospitals) the ceil((n + 1) LEVEL)-th of n, a unit's volumes sharing its weight.
    """
    names, owner, counts = np.unique(units, return_inverse=True, return_counts=True)
    if len(names) < MIN_UNITS:
        return float("nan")
    order = wrong.argsort(kind="stable")
    weight = (1 / counts[owner])[order].cumsum()
    needed = np.ceil((len(names) + 1) * LEVEL - 1e-9)
    return float(wrong[order][np.searchsorted(weight, needed - 1e-9)])
