"""The door: scores, curves and what stands beside them in one call."""

import pytest
from tests.unit.circuits.planted import marked_slices, shortcut

import seglens as sl


def test_a_circuit_says_what_a_cohort_rests_on():
    source, target = marked_slices(4, 1.0), marked_slices(8, 0.5)
    calls = []
    circuit = sl.find_circuit(
        shortcut(), target, source=source, n_random=2, progress=lambda done, total, **_: calls.append((done, total))
    )
    assert circuit.exact and circuit.reliability > 0.9
    assert set(circuit.scores.edges) == {
        ("input", "texture"),
        ("input", "mark"),
        ("texture", "logits"),
        ("mark", "logits"),
    }
    assert set(circuit.curves.losses["ranking"]) == {"score", "distance", "random 1", "random 2"}
    assert calls[-1] == (4 + 3 * 8, 4 + 3 * 8) and calls == sorted(calls)
    by_gradient = sl.find_circuit(shortcut(), target, source=source, exact=False, n_random=0)
    assert len(by_gradient.scores.cuts) == 3 and not by_gradient.exact
    assert by_gradient.scores.ranking()[0] == circuit.scores.ranking()[0]


def test_one_patient_is_too_few():
    source = marked_slices(4, 1.0)
    with pytest.raises(ValueError, match="two or more"):
        sl.find_circuit(shortcut(), source.select([0]), source=source)
