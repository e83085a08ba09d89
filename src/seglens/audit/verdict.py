"""AuditVerdict of an audit: what is to be expected of a model on a target, as a value and as a sentence."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from seglens.audit.alarm import Alarm, ring
from seglens.audit.hospitals import SOURCE
from seglens.audit.ladder import distances
from seglens.audit.predicted_dice import DicePrediction
from seglens.audit.shift import Shift
from seglens.audit.volume_table import VolumeTable
from seglens.segmenters.intervals import Interval, interval_of

Outcome = Literal["worse", "different", "same", "outside"]
NOTABLE = 0.02
"""Dice; a smaller expected loss is not called worse."""
OUTSIDE_SHARE = 0.5
"""Share of the target's volumes that lie outside of the source, from which on the estimate is not to be relied on."""
DRAWS = 2000
LIKELY = 0.5
"""Chance of failure above which a volume is flagged."""


@dataclass(frozen=True)
class Flag:
    """A reason to look at a volume.

    Attributes:
        kind: ``low``: it is likelier than not to fail; ``outside``: it lies farther from the labelled volumes than any
            of them does from the others.
        text: the reason, as a clause.
    """

    kind: Literal["low", "outside"]
    text: str


@dataclass(frozen=True, eq=False)
class AuditVerdict:
    """Expectation of a model on a target.

    Attributes:
        outcome: ``worse``: the expected Dice is lower, and the interval of the loss excludes less; ``different``:
            something moved, and no loss is established; ``same``: nothing moved by more than a random split;
            ``outside``: most volumes lie outside of the source, so the estimate is an extrapolation.
        sentence: for people.
        source: mean true Dice of the source, over patients.
        expected: mean predicted Dice of the target, over patients.
        loss: predicted Dice of the source (out of fold) minus the target's; its interval is over patients of both, and
            over virtual hospitals that were left out, where there are some.
        distance: of each target volume from the source.
        outside: of each target volume, whether that is farther than any source volume's.
        limit: the largest distance of a source volume, or of a virtual hospital's, each from the other folds.
        alarm: on the target's patients in the order of their names.
    """

    outcome: Outcome
    sentence: str
    source: float
    expected: float
    loss: Interval
    distance: Float[np.ndarray, " t"]
    outside: Bool[np.ndarray, " t"]
    limit: float
    alarm: Alarm


def verdict_of(
    source: VolumeTable, target: VolumeTable, prediction: DicePrediction, shift: Shift, *, seed: int = 0
) -> AuditVerdict:
    """Weigh what was found.

    Args:
        source: its table, volumes of virtual hospitals beside it.
        target: its table.
        prediction: of the target.
        shift: between both.
        seed: of the bootstrap.
    """
    both = source.beside(target)
    distance = distances(both, np.arange(len(source)))
    limit = float(distance[: len(source)].max())
    outside = distance[len(source) :] > limit
    plain = source.hospitals[prediction.labelled] == SOURCE
    rows = prediction.labelled[plain]
    names = source.rows["patient"].to_numpy()[rows]
    own = next(score for score in prediction.ladder if score.rung == prediction.chosen)
    before = _by_patient(own.predicted[plain], names)
    after = _by_patient(prediction.target, target.rows["patient"].to_numpy())
    true = _by_patient(source.values(["truth.dice"])[rows, 0], names)
    random = np.random.default_rng(seed)
    drawn = _means(before, random) - _means(after, random)
    loss = _widened(interval_of(float(before.mean() - after.mean()), drawn, min(len(before), len(after))), prediction)
    outcome: Outcome = "same"
    if outside.mean() > OUTSIDE_SHARE:
        outcome = "outside"
    elif loss.low > 0 and loss.value > NOTABLE:
        outcome = "worse"
    elif shift.different:
        outcome = "different"
    expected = float(after.mean())
    sentence = _sentence(outcome, float(true.mean()), expected, loss=loss, outside=float(outside.mean()), n=len(after))
    alarm = ring(before, after, seed=seed)
    return AuditVerdict(
        outcome, sentence, float(true.mean()), expected, loss, distance[len(source) :], outside, limit, alarm
    )


def flags_of(prediction: DicePrediction, verdict: AuditVerdict) -> tuple[tuple[Flag, ...], ...]:
    """Reasons to look at each target volume."""
    found = []
    for place, failing in enumerate(prediction.failing):
        own = []
        if failing > LIKELY:
            text = f"likelier than not below {prediction.threshold:.2f} (predicted {prediction.target[place]:.2f})"
            own.append(Flag("low", text))
        if verdict.outside[place]:
            own.append(
                Flag(
                    "outside",
                    "looks unlike any labelled volume, simulated ones included: its estimate is an extrapolation",
                )
            )
        found.append(tuple(own))
    return tuple(found)


def _by_patient(values: Float[np.ndarray, " n"], patients: np.ndarray) -> Float[np.ndarray, " p"]:
    _, owner = np.unique(patients, return_inverse=True)
    return np.bincount(owner, weights=values) / np.bincount(owner)


def _widened(loss: Interval, prediction: DicePrediction) -> Interval:
    """The interval with what the estimate of a hospital's mean may be wrong by, where that was measured."""
    if not np.isfinite(prediction.reach) or not np.isfinite(loss.low):
        return loss
    low, high = (float(np.hypot(end - loss.value, prediction.reach)) for end in (loss.low, loss.high))
    return replace(loss, low=loss.value - low, high=loss.value + high)


def _means(values: Float[np.ndarray, " n"], random: np.random.Generator) -> Float[np.ndarray, " d"]:
    return values[random.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)


def _sentence(outcome: Outcome, source: float, expected: float, *, loss: Interval, outside: float, n: int) -> str:
    figures = f"expected Dice {expected:.2f}, {source:.2f} on the labelled source"
    if outcome == "outside":
        first = "One patient, outside" if n == 1 else "Outside"
        return (
            f"{first} of what this audit can estimate: {outside:.0%} of the volumes look unlike any of the source's. "
            f"Read the estimate ({figures}) as an extrapolation, and label some volumes before you rely on the model."
        )
    if outcome == "worse":
        return (
            f"Expect it to be worse here: {figures}; the expected loss is {loss.value:.2f} "
            f"({loss.low:.2f} to {loss.high:.2f}), over {n} patients."
        )
    if outcome == "different":
        return f"These images differ from the source's, and no loss of Dice is established: {figures}."
    if n == 1:
        return f"One patient says little about a cohort; this one looks like the source's: {figures}."
    return f"No difference from the source was found: {figures}, over {n} patients."
