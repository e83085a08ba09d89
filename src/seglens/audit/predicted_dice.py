"""Predicted Dice of volumes without masks: a regression on the source's volumes, judged on patients it did not see.

Everything that is fitted (scalers, components, temperatures, the choice of the rung) is fitted inside the folds whose
patients it is not measured on. Intervals are cross-conformal (Barber et al., Annals of Statistics 2021, without their
factor of 2): the quantile of what was wrong with out-of-fold predictions, on the scale of the logit, one share a
patient. They hold for further patients of the same hospital; for another hospital nothing is guaranteed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64

from seglens.audit.ladder import CONSTANT, RUNGS, Rung, rung_of
from seglens.audit.metrics import Coverage, Detection, DiceErrors, detection, dice_errors, interval_coverage
from seglens.audit.volume_table import VolumeTable

LEVEL = 0.9
"""Of intervals."""
MIN_PATIENTS = 9
"""Of the source, for an interval of 90%: fewer have no quantile that high."""
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
    """Worth of a rung of the ladder on the source's patients, each predicted without its fold.

    Attributes:
        rung: its name.
        errors: of the predicted Dice.
        failures: as a detector of failing volumes.
        coverage: of its intervals.
        predicted: out of fold, in the order of the volumes with a true Dice.
    """

    rung: str
    errors: DiceErrors
    failures: Detection
    coverage: Coverage
    predicted: Float[np.ndarray, " n"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class DicePrediction:
    """Predicted Dice of a target, and what the prediction is worth on the source.

    Attributes:
        chosen: rung that the target is predicted by: the least mean absolute error over the source's folds.
        nested: score of the whole procedure, the choice of the rung included: chosen anew without each fold.
        ladder: score of every rung.
        shuffled: score of the chosen rung where true Dice are dealt to other patients: chance.
        threshold: Dice below which a volume fails.
        source: volumes of the source with a true Dice, their rows.
        target: predicted Dice.
        low: lower ends of the target's intervals; NaN where there are too few patients.
        high: upper ends.
        failing: share of the source's errors that would take the volume below the threshold, 0..1.
        n_patients: of the source.
    """

    chosen: str
    nested: RungScore
    ladder: tuple[RungScore, ...]
    shuffled: RungScore
    threshold: float
    source: Int64[np.ndarray, " n"]
    target: Float[np.ndarray, " t"]
    low: Float[np.ndarray, " t"]
    high: Float[np.ndarray, " t"]
    failing: Float[np.ndarray, " t"]
    n_patients: int


def predict_dice(
    source: VolumeTable, target: VolumeTable, *, threshold: float | None = None, seed: int = 0
) -> DicePrediction:
    """Fit the ladder to the source and predict the target.

    Args:
        source: with masks and folds.
        target: its masks, if any, are not looked at.
        threshold: Dice below which a volume fails; None: the `FAILURE_QUANTILE` of the source's.
        seed: of the shuffled control.

    Raises:
        ValueError: fewer than 4 patients of the source have a true Dice.
    """
    from sklearn import config_context

    with config_context(assume_finite=True, skip_parameter_validation=True):  # hundreds of small fits
        return _predict_dice(source, target, threshold, seed)


def _predict_dice(source: VolumeTable, target: VolumeTable, threshold: float | None, seed: int) -> DicePrediction:
    both = source.beside(target)
    dice = source.values(["truth.dice"])[:, 0] if "truth.dice" in source.rows.columns else np.full(len(source), np.nan)
    rows = np.flatnonzero(~np.isnan(dice))
    patients = source.rows["patient"].to_numpy()[rows]
    if len(set(patients)) < 4:
        raise ValueError(
            f"{len(set(patients))} patients of the source have a mask with something in it; Dice is predicted from at "
            "least 4: give a source with more labelled patients"
        )
    work = _Work(both, rows, dice[rows], both.folds[rows], patients)
    threshold = float(np.quantile(work.dice, FAILURE_QUANTILE)) if threshold is None else threshold
    whole = {rung.name: work.out_of_fold(rung, np.arange(len(rows))) for rung in RUNGS}
    chosen = _best(whole, work.dice)
    nested = np.zeros(len(rows))
    low, high = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for fold in np.unique(work.folds):
        inner, own = np.flatnonzero(work.folds != fold), np.flatnonzero(work.folds == fold)
        within = {rung.name: work.out_of_fold(rung, inner) for rung in RUNGS}
        best = _best(within, work.dice[inner])
        nested[own] = work.fitted(rung_of(best), inner)[rows[own]]
        low[own], high[own] = work.interval(nested[own], within[best], inner)
    random = np.random.default_rng(seed)
    names = np.unique(patients)
    partner_of = dict(zip(names, random.permutation(names), strict=True))
    first = {name: work.dice[np.flatnonzero(patients == name)[0]] for name in names}
    mixed = _Work(both, rows, np.array([first[partner_of[name]] for name in patients]), work.folds, patients)
    predicted = work.fitted(rung_of(chosen), np.arange(len(rows)))[len(source) :]
    ends = work.interval(predicted, whole[chosen], np.arange(len(rows)))
    errors = logit(work.dice) - logit(whole[chosen])
    failing = (logit(predicted)[:, None] + errors < logit(np.array([threshold]))).mean(1)
    return DicePrediction(
        chosen,
        work.score("chosen inside each fold", nested, threshold, interval_coverage(low, high, work.dice)),
        tuple(work.ladder_score(rung.name, whole[rung.name], threshold) for rung in RUNGS),
        mixed.score(
            "shuffled", mixed.out_of_fold(rung_of(chosen), np.arange(len(rows))), threshold, Coverage(0, np.nan, np.nan)
        ),
        threshold,
        rows,
        predicted,
        *ends,
        failing,
        len(names),
    )


def _best(predictions: "dict[str, Float[np.ndarray, ' n']]", dice: Float[np.ndarray, " n"]) -> str:
    """The rung of least mean absolute error; of equal ones the first."""
    return min(predictions, key=lambda name: float(np.abs(predictions[name] - dice).mean()))


@dataclass(frozen=True, eq=False)
class _Work:
    """The source's volumes with a true Dice, in a table with the target's behind them."""

    table: VolumeTable
    rows: Int64[np.ndarray, " n"]
    dice: Float[np.ndarray, " n"]
    folds: Int64[np.ndarray, " n"]
    patients: np.ndarray
    kept: dict[tuple[str, bytes], np.ndarray] = field(default_factory=dict)

    def fitted(self, rung: Rung, among: Int64[np.ndarray, " k"]) -> Float[np.ndarray, " m"]:
        """Predicted Dice of the whole table by a rung that is fitted to some of the volumes."""
        key = rung.name, among.tobytes()
        if key not in self.kept:
            own = self.rows[among]
            self.kept[key] = regress(rung.features(self.table, own), own, self.dice[among])
        return self.kept[key]

    def out_of_fold(self, rung: Rung, among: Int64[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Predicted Dice of some of the volumes, each fitted to those among them that are of other folds."""
        found = np.full(len(among), float(np.median(self.dice[among])))
        folds = self.folds[among]
        for fold in np.unique(folds) if len(np.unique(folds)) > 1 else ():
            rest = among[folds != fold]
            found[folds == fold] = self.fitted(rung, rest)[self.rows[among[folds == fold]]]
        return found

    def interval(
        self, predicted: Float[np.ndarray, " p"], out_of_fold: Float[np.ndarray, " k"], among: Int64[np.ndarray, " k"]
    ) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
        """Ends of the intervals of predictions, by what was wrong out of fold."""
        wrong = np.abs(logit(self.dice[among]) - logit(out_of_fold))
        reach = patient_quantile(wrong, self.patients[among])
        return dice_of(logit(predicted) - reach), dice_of(logit(predicted) + reach)

    def ladder_score(self, name: str, predicted: Float[np.ndarray, " n"], threshold: float) -> RungScore:
        """Score of a rung, its intervals by the errors of the other folds."""
        low, high = np.full(len(self.dice), np.nan), np.full(len(self.dice), np.nan)
        for fold in np.unique(self.folds):
            inner, own = np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)
            low[own], high[own] = self.interval(predicted[own], predicted[inner], inner)
        return self.score(name, predicted, threshold, interval_coverage(low, high, self.dice))

    def score(self, name: str, predicted: Float[np.ndarray, " n"], threshold: float, coverage: Coverage) -> RungScore:
        """Score of out-of-fold predictions."""
        blind = self.out_of_fold(rung_of(CONSTANT), np.arange(len(self.dice)))
        errors = dice_errors(predicted, self.dice, blind)
        return RungScore(name, errors, detection(predicted, self.dice < threshold), coverage, predicted)


def patient_quantile(wrong: Float[np.ndarray, " n"], patients: Sequence[str] | np.ndarray) -> float:
    """The conformal quantile at `LEVEL` of absolute errors, one share a patient; NaN of too few patients.

    Of n patients the ceil((n + 1) LEVEL)-th of n, each patient's volumes sharing its weight.
    """
    names, owner, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    if len(names) < MIN_PATIENTS:
        return float("nan")
    order = wrong.argsort(kind="stable")
    weight = (1 / counts[owner])[order].cumsum()
    needed = np.ceil((len(names) + 1) * LEVEL - 1e-9)
    return float(wrong[order][np.searchsorted(weight, needed - 1e-9)])
