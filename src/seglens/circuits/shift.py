"""Shift of a circuit: do a cohort's segmentations, or one patient's, rest on other edges than those of the source?

After the Circuit Shift Score of Inside-Out (arXiv 2604.08192), 1 - Spearman's correlation of all signed edge scores,
with one baseline for both cohorts and a null from patients of the source. It sees that the way is another, not that the
mask is worse: a harmless shift is a shift.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from seglens.circuits.edge_scores import EdgeScores


@dataclass(frozen=True, eq=False)
class CircuitShift:
    """Distance of circuits from that of the source, 0 (edges rank alike) to 2 (the other way round).

    Attributes:
        cohort: of the mean over the cohort's patients from the mean over the source's.
        p: of a permutation test of it: how often patients dealt at random into groups of these sizes are as far apart.
        patients: of each patient from the mean over the source's.
        calibration: of each patient of the source from the mean over the others: the null of ``patients``.
    """

    cohort: float
    p: float
    patients: Float[np.ndarray, " t"]
    calibration: Float[np.ndarray, " n"]


def circuit_shift(source: EdgeScores, other: EdgeScores, *, draws: int = 199, seed: int = 0) -> CircuitShift:
    """Compare the circuits of a cohort with those of the source, by the same graph, baseline and target.

    The cohort's p-value is exact where patients can be exchanged. Spearman's correlation of few edges is coarse: 14
    edges of a U-Net say less than 68 of a SegFormer.

    Args:
        source: scores of patients of the source that the segmenter was not trained on, two or more.
        other: of the cohort.
        draws: of the permutation test.
        seed: of the draws.

    Raises:
        ValueError: other edges, or one patient of the source alone.
    """
    if source.edges != other.edges:
        raise ValueError("the two tables have other edges; give scores of one graph")
    own, theirs = source.matrix(), other.matrix()
    n = len(own)
    if n < 2:
        raise ValueError("the source has one patient; its null needs two or more")
    mean = own.mean(0)
    without = (own.sum(0) - own) / (n - 1)
    pooled = np.concatenate([own, theirs])
    random = np.random.default_rng(seed)
    orders = np.stack([random.permutation(len(pooled)) for _ in range(draws)])
    null = _distance(pooled[orders[:, :n]].mean(1), pooled[orders[:, n:]].mean(1))
    found = float(_distance(mean[None], theirs.mean(0)[None])[0])
    return CircuitShift(
        cohort=found,
        p=float((1 + (~(null < found - 1e-12)).sum()) / (1 + draws)),
        patients=_distance(np.broadcast_to(mean, theirs.shape), theirs),
        calibration=_distance(without, own),
    )


def _distance(one: Float[np.ndarray, "r e"], other: Float[np.ndarray, "r e"]) -> Float[np.ndarray, " r"]:
    """1 - Spearman's correlation of each pair of rows; NaN where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(matrix, axis=1) for matrix in (one, other)]
    a, b = (own - own.mean(1, keepdims=True) for own in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
