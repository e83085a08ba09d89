import numpy as np
import pytest

from seglens.diffing.matching import greedy
from seglens.diffing.methods import (
    AlignmentMethod,
    PairEvidence,
    alignment_method,
    alignment_methods,
    both_projections,
    correlated,
    encoder_alone,
)

EVIDENCE = PairEvidence(
    {"encoder": np.array([0.9, 0.9, 0.9, 0.7]), "decoder": np.array([0.9, 0.7, 0.9, 0.9])},
    np.array([True, True, False, True]),
)


def test_which_pairs_each_rule_accepts():
    assert both_projections(EVIDENCE, 0.8).tolist() == [True, False, False, False]
    assert encoder_alone(EVIDENCE, 0.8).tolist() == [True, True, True, False]
    function = PairEvidence({"correlation": np.array([0.5, 0.49])}, np.array([True, True]))
    assert correlated(function, 0.5).tolist() == [True, False]


def test_methods_by_what_they_need():
    assert list(alignment_methods("weights")) == ["hungarian_dual", "greedy", "sinkhorn", "encoder_only"]
    assert list(alignment_methods("codes")) == ["functional"]
    assert list(alignment_methods()) == [*alignment_methods("weights"), "functional"]
    with pytest.raises(ValueError, match="unknown method 'functional'; there are hungarian_dual, greedy"):
        alignment_method("functional", "weights")


def test_an_installed_package_adds_a_method(installed):
    installed("seglens.alignment_methods", loose=AlignmentMethod("loose", "loose", "weights", greedy, encoder_alone))
    assert alignment_method("loose").match is greedy
    assert list(alignment_methods("weights"))[-1] == "loose"
