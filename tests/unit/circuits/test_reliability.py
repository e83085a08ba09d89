"""Ranks of edges: alike in two halves, or noise."""

import math

import numpy as np
import polars as pl
import pytest

from seglens.circuits.edge_scores import CUTS, SCHEMA, EdgeScores
from seglens.circuits.reliability import half_split_reliability, rank_correlation


def scores_of(matrix):
    """Scores [patients edges]."""
    rows = [
        (f"p{patient}", f"u{edge}", "v", "end", float(score), 1)
        for patient, own in enumerate(matrix)
        for edge, score in enumerate(own)
    ]
    return EdgeScores(pl.DataFrame(rows, schema=SCHEMA, orient="row"), 0, pl.DataFrame(schema=CUTS))


def test_a_common_order_is_reliable_and_noise_is_not():
    random = np.random.default_rng(0)
    common, noise = random.normal(size=40), random.normal(size=(12, 40))
    assert half_split_reliability(scores_of(common + 0.1 * noise)) > 0.98
    assert half_split_reliability(scores_of(noise)) < 0.4
    assert math.isnan(half_split_reliability(scores_of(noise[:1])))


def test_it_is_the_correlation_of_halves_stepped_up():
    random = np.random.default_rng(1)
    common, noise = random.normal(size=400), random.normal(size=(2, 400))
    pair = scores_of(common + noise)
    halves = rank_correlation(pair.of_patients(["p0"]), pair.of_patients(["p1"]))
    assert half_split_reliability(pair) == pytest.approx(2 * halves / (1 + halves))


def test_tables_are_compared_edge_by_edge():
    one = scores_of([[1.0, 5.0, 3.0, 2.0]])
    assert rank_correlation(one, scores_of([[10.0, 50.0, 30.0, 20.0]])) == pytest.approx(1)
    assert rank_correlation(one, scores_of([[-1.0, -5.0, -3.0, -2.0]])) == pytest.approx(-1)
    assert math.isnan(rank_correlation(one, scores_of([[1.0, 1.0, 1.0, 1.0]])))
    with pytest.raises(ValueError, match="2 edges in common"):
        rank_correlation(one, scores_of([[1.0, 2.0]]))
