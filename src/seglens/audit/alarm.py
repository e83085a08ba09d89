"""Alarm over patients that come one after another: an e-detector on the predicted Dice.

Each patient's predicted Dice is ranked among those of the source's patients (each predicted without its own fold); the
rank is a p-value, a bet on small ones makes evidence of it, and evidence adds up as in Shiryaev and Roberts' procedure
(Shin, Ramdas and Rinaldo, 2024). While nothing has changed, a false alarm comes after `LIMIT` patients or later on
average. That is exact for independent p-values; here they share one set of source patients, so it holds on average over
such sets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LIMIT = 100.0
"""Evidence at which the alarm rings: patients to a false one, on average, or more."""


@dataclass(frozen=True, eq=False)
class Alarm:
    """Evidence that predicted Dice has fallen.

    Attributes:
        evidence: after each patient.
        rang_after: patients until it first reached `LIMIT`; None: it did not.
    """

    evidence: Float[np.ndarray, " t"]
    rang_after: int | None


def ring(calibration: Float[np.ndarray, " n"], values: Float[np.ndarray, " t"], *, seed: int = 0) -> Alarm:
    """Run the detector.

    Args:
        calibration: predicted Dice of the source's patients.
        values: of further patients, in the order in which they come.
        seed: of the draws that break ties of ranks.

    Raises:
        ValueError: no patient to calibrate by.
    """
    if not len(calibration):
        raise ValueError("no patient to calibrate the alarm by; give at least one")
    random = np.random.default_rng(seed)
    evidence, found = 0.0, []
    for value in values:
        ties = 1 + int((calibration == value).sum())
        rank = int((calibration < value).sum()) + random.random() * ties
        evidence = (evidence + 1) * bet(max(rank / (len(calibration) + 1), 1e-12))
        found.append(evidence)
    reached = [place for place, own in enumerate(found, 1) if own >= LIMIT]
    return Alarm(np.array(found, float), reached[0] if reached else None)


def bet(p: float) -> float:
    """Payoff of a bet on small p-values, 1 on average where they are uniform (Vovk and Wang, 2021).

    Args:
        p: 0..1, above 0.
    """
    logarithm = float(np.log(p))
    if logarithm > -1e-4:
        return 0.5 - logarithm / 6  # the formula's limit, where it would lose all digits
    return (1 - p + p * logarithm) / (p * logarithm**2)
