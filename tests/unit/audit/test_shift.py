import numpy as np
import pytest
from tests.unit.audit.tables import table_of

from seglens.audit.shift import shift_between


def test_planted_noise_is_the_first_feature_and_nothing_else_is_called():
    found = shift_between(table_of(24), table_of(20, seed=5, shift=2.5, masks=False), draws=400)
    assert found.moved[0].feature == "image.T1.noise" and found.different
    assert found.moved[0].separation > 0.9
    assert all(one.p > 0.05 for one in found.moved[1:])


def test_equal_cohorts_are_called_different_as_often_as_promised():
    calls = [
        shift_between(table_of(14, seed=seed), table_of(10, seed=500 + seed, masks=False), draws=200).different
        for seed in range(60)
    ]
    assert np.mean(calls) <= 0.12


def test_separation_counts_pairs():
    source, target = table_of(9), table_of(7, seed=1, masks=False)
    found = {one.feature: one.separation for one in shift_between(source, target, draws=10).moved}
    a, b = (table.values(["area.edema"])[:, 0] for table in (source, target))
    assert found["area.edema"] == pytest.approx(np.mean(a[:, None] < b[None]))


def test_volumes_of_a_patient_are_one():
    source = table_of(6, volumes_each=5)
    found = shift_between(source, table_of(1, seed=1, volumes_each=5, masks=False), draws=50)
    assert (found.n_source, found.n_target) == (6, 1)
    assert not found.different  # one patient against six is never one in twenty


def test_an_empty_table_is_refused():
    empty = table_of(0, masks=False)
    with pytest.raises(ValueError, match="no volume"):
        shift_between(table_of(5), empty)
