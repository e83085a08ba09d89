"""Curves of networks of which it is known which edges are enough."""

import numpy as np
import pytest
from tests.toys import slices_of
from tests.unit.circuits.planted import TWO, two_paths

from seglens.circuits.baseline import source_baseline
from seglens.circuits.edge_scores import distances, exact_scores
from seglens.circuits.faithfulness import faithfulness_curves
from seglens.circuits.targets import class_odds

SLICES = slices_of(6, labels=TWO)


def curves_of(slices=SLICES, **settings):
    _, graph = two_paths()
    baseline = source_baseline(graph, SLICES)
    scores = exact_scores(graph, baseline, slices, class_odds(1))
    far = distances(graph, baseline, slices)
    return faithfulness_curves(
        graph, baseline, slices, class_odds(1), {"score": scores, "distance": far}, shares=[1 / 3, 2 / 3], **settings
    )


def faithfulness(table, ranking, part, share):
    rows = {(row["ranking"], row["part"], round(row["share"], 3)): row["faithfulness"] for row in table.to_dicts()}
    return rows[ranking, part, round(share, 3)]


def test_what_a_path_carries_is_what_it_keeps():
    curves = curves_of(n_random=6)
    table = curves.table()
    assert faithfulness(table, "score", "kept", 1 / 3) == pytest.approx(0.8, abs=1e-3)  # input > a > logits
    assert faithfulness(table, "score", "ablated", 1 / 3) == pytest.approx(0.2, abs=1e-3)
    assert faithfulness(table, "score", "kept", 2 / 3) == pytest.approx(1, abs=1e-3)  # all but the path to nowhere
    assert faithfulness(table, "score", "kept", 0) == 0 and faithfulness(table, "score", "kept", 1) == 1
    assert faithfulness(table, "random", "kept", 1 / 3) < 0.7
    bands = table.filter(table["ranking"] == "score")
    assert (bands["low"] <= bands["faithfulness"] + 1e-9).all() and (
        bands["high"] >= bands["faithfulness"] - 1e-9
    ).all()


def test_areas_are_those_of_the_line_through_the_points():
    area, missing = curves_of(n_random=0).areas()
    wanted = np.trapezoid([0, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1])
    assert (area, missing) == (pytest.approx(wanted, abs=1e-3), pytest.approx(1 - wanted, abs=1e-3))


def test_no_edge_of_a_tight_circuit_is_idle():
    assert curves_of(n_random=0).idle == 0.0


def test_every_patient_is_judged_once_by_the_ranking_of_others():
    losses = curves_of(n_random=2).losses
    per_variant = losses.group_by("ranking", "part", "share").len()
    assert (per_variant["len"] == 6).all()


def test_one_patient_alone_is_refused():
    with pytest.raises(ValueError, match="has 1 with"):
        curves_of(SLICES.select([0]))
