"""Metrics of a confidence, of a predicted Dice and of an interval, with their optimum and what chance gives.

Risk-coverage curves follow fd-shifts (Jaeger et al., ICLR 2023) and the area under the generalised risk (Traub et al.,
NeurIPS 2024), with one difference: units of one confidence are one step, within which the generalised risk rises in a
line. So a constant confidence is exactly chance, and the area for a binary risk is exactly

    AUGRC = (1 - AUROC) e (1 - e) + e^2 / 2        with e the share of failures.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

NAN = float("nan")
DETECTED = 0.95
"""Share of the failures (or of the sound volumes) at which a false-positive rate is read."""


@dataclass(frozen=True)
class RiskCoverage:
    """Areas under the risk-coverage curves of a confidence.

    Attributes:
        n: units.
        aurc: area under the selective risk, the mean risk of the units that are kept, over coverage.
        aurc_optimum: that of a confidence that orders by the risk itself.
        aurc_chance: that of a constant confidence: the mean risk.
        augrc: area under the generalised risk: of kept units' risks the sum, divided by all units.
        augrc_optimum: as above.
        augrc_chance: half of the mean risk.
    """

    n: int
    aurc: float
    aurc_optimum: float
    aurc_chance: float
    augrc: float
    augrc_optimum: float
    augrc_chance: float

    @property
    def excess_aurc(self) -> float:
        """E-AURC: how far above the optimum, 0 or more."""
        return self.aurc - self.aurc_optimum

    @property
    def normalised_aurc(self) -> float:
        """1 for the optimum, 0 for chance, below 0 for worse; NaN where all risks are alike."""
        return _normalised(self.aurc, self.aurc_optimum, self.aurc_chance)

    @property
    def normalised_augrc(self) -> float:
        """As `normalised_aurc`, of the generalised risk."""
        return _normalised(self.augrc, self.augrc_optimum, self.augrc_chance)


def risk_coverage(confidence: Float[np.ndarray, " n"], risk: Float[np.ndarray, " n"]) -> RiskCoverage:
    """Areas under both curves.

    Args:
        confidence: higher is better segmented; of any scale.
        risk: 0..1, such as 1 - Dice, or 1 for a failure.

    Raises:
        ValueError: no unit, values that are not finite, or a risk outside 0..1.
    """
    _refuse(confidence, risk)
    if risk.min() < 0 or risk.max() > 1:
        raise ValueError(f"risks run from {risk.min():g} to {risk.max():g}; give risks within 0..1, such as 1 - Dice")
    aurc, augrc = _areas(confidence, risk)
    best, best_generalised = _areas(-risk, risk)
    mean = float(risk.mean())
    return RiskCoverage(len(risk), aurc, best, mean, augrc, best_generalised, mean / 2)


def _areas(confidence: Float[np.ndarray, " n"], risk: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """AURC and AUGRC; within units of one confidence g is a line, and the selective risk is g / x."""
    _, step = np.unique(-confidence, return_inverse=True)
    width = np.bincount(step) / len(risk)
    rise = np.bincount(step, weights=risk) / len(risk)
    x1, g1 = width.cumsum(), rise.cumsum()
    x0, g0 = x1 - width, g1 - rise
    slope = rise / width
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(np.arange(len(x0)) == 0, 0.0, (g0 - x0 * slope) * np.log(x1 / x0))
    return float((logarithm + slope * width).sum()), float((width * (g0 + g1) / 2).sum())


def _normalised(value: float, optimum: float, chance: float) -> float:
    return (chance - value) / (chance - optimum) if chance - optimum > 1e-12 else NAN


@dataclass(frozen=True)
class Detection:
    """Quality of a confidence as a detector of failures: positive is a failure.

    Attributes:
        n: units.
        n_failures: of these.
        auroc: chance that a failure has a lower confidence than a sound unit, ties half.
        auprc: mean precision over the failures (average precision); the share of failures is chance.
        fpr95_failures: share of the sound units that are flagged where 95% of the failures are.
        fpr95_sound: share of the failures that are passed where 95% of the sound units are.
        caught: share of the failures among the fifth of the units with the lowest confidence.
    """

    n: int
    n_failures: int
    auroc: float
    auprc: float
    fpr95_failures: float
    fpr95_sound: float
    caught: float


def detection(
    confidence: Float[np.ndarray, " n"], failure: Bool[np.ndarray, " n"], *, reviewed: float = 0.2
) -> Detection:
    """Quality of a confidence as a detector; figures are NaN where there is no failure, or nothing else.

    Args:
        confidence: higher is better segmented.
        failure: of each unit.
        reviewed: share of the units that are looked at, for ``caught``.

    Raises:
        ValueError: no unit, or values that are not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    _refuse(confidence, failure.astype(float))
    n, n_failures = len(failure), int(failure.sum())
    if n_failures in (0, n):
        return Detection(n, n_failures, NAN, NAN, NAN, NAN, NAN)
    return Detection(
        n,
        n_failures,
        float(roc_auc_score(failure, -confidence)),
        float(average_precision_score(failure, -confidence)),
        _false_rate(-confidence, failure),
        _false_rate(confidence, ~failure),
        _share_within(confidence, failure, reviewed),
    )


def _false_rate(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Share of the negatives at or above the score that `DETECTED` of the positives reach."""
    needed = int(np.ceil(DETECTED * positive.sum() - 1e-9))
    threshold = np.sort(score[positive])[::-1][needed - 1]
    return float((score[~positive] >= threshold).mean())


def _share_within(confidence: Float[np.ndarray, " n"], failure: Bool[np.ndarray, " n"], reviewed: float) -> float:
    """Share of the failures among the units of least confidence; of equal ones at the border, as many as fit."""
    room = max(1, round(reviewed * len(failure)))
    border = np.sort(confidence)[room - 1]
    below, at = confidence < border, confidence == border
    caught = failure[below].sum() + (room - below.sum()) * failure[at].mean()
    return float(caught / failure.sum())


@dataclass(frozen=True)
class DiceErrors:
    """Errors of a predicted Dice.

    Attributes:
        n: units.
        mae: mean absolute error.
        rmse: root mean square error.
        bias: mean of predicted minus true.
        r2: share of the variance that is predicted; NaN where all are alike.
        spearman: rank correlation; NaN where one side is constant.
        kendall: tau-b; as above.
        skill: 1 - MAE / MAE of one constant; 0 is a constant's, 1 is perfect; NaN where the constant is exact.
    """

    n: int
    mae: float
    rmse: float
    bias: float
    r2: float
    spearman: float
    kendall: float
    skill: float


def dice_errors(
    predicted: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"], constant: "float | Float[np.ndarray, ' n']"
) -> DiceErrors:
    """Errors of a predicted Dice, and its skill against a constant.

    Args:
        predicted: of each unit.
        true: of each unit.
        constant: what is predicted without looking: the median Dice of other patients of the source, one for all units
            or, in cross-validation, that of each unit's fold.

    Raises:
        ValueError: no unit, or values that are not finite.
    """
    from scipy.stats import kendalltau, spearmanr

    _refuse(predicted, true)
    error = predicted - true
    mae, spread = float(np.abs(error).mean()), float(((true - true.mean()) ** 2).sum())
    blind = float(np.abs(constant - true).mean())
    varied = len(true) > 1 and np.ptp(predicted) > 0 and np.ptp(true) > 0
    return DiceErrors(
        len(true),
        mae,
        float(np.sqrt((error**2).mean())),
        float(error.mean()),
        1 - float((error**2).sum()) / spread if spread > 0 else NAN,
        float(spearmanr(predicted, true).statistic) if varied else NAN,
        float(kendalltau(predicted, true).statistic) if varied else NAN,
        1 - mae / blind if blind > 0 else NAN,
    )


@dataclass(frozen=True)
class Coverage:
    """How often an interval holds the truth.

    Attributes:
        n: units with an interval.
        share: of them that hold the truth, ends included; NaN of none.
        mean_width: high minus low; NaN of none.
    """

    n: int
    share: float
    mean_width: float


def interval_coverage(
    low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]
) -> Coverage:
    """Share of intervals that hold the truth; units whose interval or truth is NaN do not count."""
    known = ~(np.isnan(low) | np.isnan(high) | np.isnan(true))
    if not known.any():
        return Coverage(0, NAN, NAN)
    inside = (low <= true) & (true <= high)
    return Coverage(int(known.sum()), float(inside[known].mean()), float((high - low)[known].mean()))


def _refuse(*columns: Float[np.ndarray, " n"]) -> None:
    for values in columns:
        if not len(values):
            raise ValueError("there is no unit to measure; give at least one")
        if not np.isfinite(values).all():
            raise ValueError("some values are not finite; leave out units without a value, and count them")
