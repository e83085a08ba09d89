"""Whether edge scores are worth reading: do two halves of the patients rank edges alike, do two tables?"""

import numpy as np

from seglens.circuits.edge_scores import EdgeScores

RELIABLE = 0.9
"""Reliability below which nothing that rests on the scores is worth reading."""


def rank_correlation(a: EdgeScores, b: EdgeScores) -> float:
    """Spearman's correlation of the mean scores of the edges that both have; NaN where one is constant.

    Args:
        a: of any patients.
        b: of the same graph: by another method, on another cohort, or of another network of the same architecture.

    Raises:
        ValueError: fewer than three edges in common.
    """
    mine, theirs = a.mean(), b.mean()
    common = [edge for edge in mine if edge in theirs]
    if len(common) < 3:
        raise ValueError(f"the two graphs have {len(common)} edges in common; give scores of one architecture")
    return _spearman(np.array([mine[edge] for edge in common]), np.array([theirs[edge] for edge in common]))


def half_split_reliability(scores: EdgeScores, *, draws: int = 100, seed: int = 0) -> float:
    """Reliability of the ranks of edges: the mean correlation of two halves of the patients, stepped up to all of them.

    2 r / (1 + r) (Spearman 1910, Brown 1910). Below `RELIABLE` the patients are too few, or too unlike.

    Args:
        scores: of at least two patients; NaN for one.
        draws: of halves.
        seed: of the draws.
    """
    matrix = scores.matrix()
    if len(matrix) < 2:
        return float("nan")
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = random.permutation(len(matrix))
        half = len(matrix) // 2
        found.append(_spearman(matrix[order[:half]].mean(0), matrix[order[half:]].mean(0)))
    r = float(np.mean(found))
    return 2 * r / (1 + r) if r > -1 else float("-inf")


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(a), rankdata(b)
    if min(np.ptp(own) for own in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])
