from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.unit.audit.tables import table_of

from seglens.audit.ladder import RUNGS, distances, rung_of, temperature_of


def test_a_rung_does_not_look_at_other_rows_to_make_a_row():
    """Whatever stands in rows that it may not be fitted to, the features of the others stay the same."""
    first, second = table_of(20, seed=0), table_of(20, seed=0)
    rows = np.arange(12)
    others = pl.arange(20, eager=True) >= 12
    numbers = [name for name in first.rows.columns if "." in name or "@" in name]
    spoilt = first.rows.with_columns(
        pl.when(others).then(pl.col(name) * 0 + 123.0).otherwise(pl.col(name)).alias(name) for name in numbers
    )
    second = replace(second, rows=spoilt)
    second.dense[12:] = 77.0
    second.latents[12:] = 77.0
    for rung in RUNGS:
        assert rung.features(first, rows)[:12] == pytest.approx(rung.features(second, rows)[:12]), rung.name


def test_the_temperature_makes_soft_dice_true_on_average():
    table = table_of(30)
    found = temperature_of(table, np.arange(30))
    true = table.values(["truth.dice"]).mean()
    gaps = {t: abs(table.values([f"sdc@{t}"]).mean() - true) for t in (0.5, 1.0, 2.0, 8.0)}
    assert abs(table.values([f"sdc@{found}"]).mean() - true) <= min(gaps.values())


def test_distance_sees_a_shift_and_no_row_is_near_only_because_it_was_fitted_to():
    source = table_of(40)
    far, near = table_of(20, seed=3, shift=4.0, masks=False), table_of(20, seed=3, masks=False)
    own = distances(source.beside(far), np.arange(40))
    assert own[40:].min() > np.median(own[:40]) * 1.5
    same = distances(source.beside(near), np.arange(40))
    assert np.median(same[:40]) == pytest.approx(np.median(same[40:]), rel=0.25)


def test_a_rung_is_found_by_its_name():
    assert rung_of("latents").name == "latents"
