from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.unit.audit.tables import table_of

from seglens.audit.predicted_dice import predict_dice
from seglens.audit.shift import shift_between
from seglens.audit.verdict import verdict_of


def verdict(source, target):
    return verdict_of(source, target, predict_dice(source, target), shift_between(source, target, draws=300))


def lowered(target, by):
    columns = [name for name in target.rows.columns if name.startswith("sdc@")]
    return replace(target, rows=target.rows.with_columns((pl.col(name) - by).clip(0.02, 0.98) for name in columns))


def test_a_planted_loss_is_called_worse_with_its_size():
    found = verdict(table_of(40), lowered(table_of(30, seed=4, masks=False), 0.25))
    assert found.outcome == "worse" and found.loss.low > 0.05
    assert found.expected < found.source - 0.1
    assert found.alarm.rang_after is not None and found.alarm.rang_after <= 20
    assert "worse" in found.sentence and f"{found.expected:.2f}" in found.sentence


def test_the_same_kind_of_patients_is_no_difference():
    found = verdict(table_of(40), table_of(30, seed=9, masks=False))
    assert found.outcome == "same" and found.loss.low < 0 < found.loss.high
    assert found.alarm.rang_after is None


def test_harmless_noise_is_different_and_not_worse():
    target = table_of(30, seed=9, shift=2.0, masks=False)
    target.dense[:] -= 2.0
    found = verdict(table_of(40), target)
    assert found.outcome == "different" and "no loss" in found.sentence


def test_far_from_the_source_the_estimate_is_not_to_be_relied_on():
    found = verdict(table_of(40), table_of(30, seed=9, shift=8.0, masks=False))
    assert found.outcome == "outside" and found.outside.mean() > 0.9
    assert "extrapolation" in found.sentence


def test_one_patient_is_no_cohort():
    found = verdict(table_of(20), table_of(1, seed=3, masks=False))
    assert np.isnan(found.loss.low) and found.outcome in ("same", "outside")
    assert "nan" not in found.sentence and "one patient" in found.sentence.lower()
    assert found.expected == pytest.approx(found.expected)
