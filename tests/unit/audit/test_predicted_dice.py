from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.unit.audit.tables import table_of

from seglens.audit.ladder import RUNGS
from seglens.audit.metrics import interval_coverage
from seglens.audit.predicted_dice import MIN_UNITS, dice_of, logit, predict_dice, regress, unit_quantile


def scores_of(found):
    return {score.rung: score for score in found.ladder}


def test_planted_soft_dice_is_found_and_the_constant_is_not_beaten_without_it():
    source, target = table_of(40), table_of(30, seed=1, masks=False)
    found = predict_dice(source, target)
    assert "soft Dice" in found.chosen
    scores = scores_of(found)
    assert scores["soft Dice"].errors.skill > 0.7 and found.nested.errors.skill > 0.6
    assert scores["constant"].errors.skill == pytest.approx(0)
    assert found.shuffled.errors.skill < 0.1
    silent = predict_dice(table_of(40, told=0.0), target)
    assert silent.nested.errors.skill < 0.15  # chosen inside the folds: luck is not counted as skill
    assert max(score.errors.skill for score in silent.ladder) >= silent.nested.errors.skill


def test_intervals_hold_for_further_patients_of_the_same_kind():
    inside = []
    for seed in range(3):
        target = table_of(30, seed=1000 + seed)
        found = predict_dice(table_of(24, seed=seed, told=0.8), target)
        true = target.values(["truth.dice"])[:, 0]
        inside.append(interval_coverage(found.low, found.high, true).share)
        assert found.nested.coverage.n == 24
    assert 0.82 < np.mean(inside) < 0.99


def test_the_target_s_own_masks_are_not_looked_at():
    source, target = table_of(9), table_of(5, seed=1)
    bare = table_of(5, seed=1, masks=False)
    first, second = predict_dice(source, target), predict_dice(source, bare)
    assert np.array_equal(first.target, second.target)


def test_only_a_column_that_speaks_of_dice_helps():
    source = table_of(30, told=0.0)
    found = scores_of(predict_dice(source, table_of(4, seed=2, masks=False)))
    truth = source.values(["truth.dice"])[:, 0]
    leak = replace(source, rows=source.rows.with_columns(pl.Series("area.edema", truth)))
    told = scores_of(predict_dice(leak, table_of(4, seed=2, masks=False)))
    assert told["area"].errors.skill > 0.8
    assert found["area"].errors.skill < 0.2


def test_volumes_of_a_unit_share_one_vote():
    wrong = np.array([0.1] * 9 + [5.0] * 30)
    units = np.array([f"a{number}" for number in range(9)] + ["b"] * 30)
    assert unit_quantile(wrong, units) == 5.0  # 10 units: the 10th of 11 x .9, the worst
    many = np.array([*map(str, range(19)), *["b"] * 30])
    assert unit_quantile(np.r_[np.full(19, 0.1), np.full(30, 5.0)], many) == 0.1
    assert np.isnan(unit_quantile(np.ones(MIN_UNITS - 1), np.array([*"abcdefgh"])))


def hospitals(n=12, *, told=1.0):
    """The source with virtual hospitals of four kinds beside it, whose images lose Dice and say so."""
    table = table_of(24, told=told)
    for number in range(n):
        name = f"{'abcd'[number % 4]} {number // 4}"
        table = table.beside(table_of(24, seed=50 + number, told=told, hospital=name, loss=0.4 * (number // 4)))
    return table


def test_a_loss_that_the_source_does_not_show_is_learnt_from_virtual_hospitals():
    """Planted: the old way, the source alone, sees no failure that it does not have itself."""
    alone = table_of(24, told=0.0, seed=3)
    target = table_of(30, seed=7, loss=1.2, masks=True)
    true = target.values(["truth.dice"]).mean()
    assert predict_dice(alone, target).target.mean() > true + 0.15
    found = predict_dice(hospitals(), target)
    assert found.target.mean() == pytest.approx(true, abs=0.06)
    assert (found.n_patients, found.n_hospitals) == (24, 12)
    assert found.nested.cohorts < 0.1 and found.reach < 0.15


def test_a_volume_is_predicted_without_its_patient_and_its_kind_of_hospital():
    """A kind whose Dice follows no rule of the others: nothing that is fitted to it may help to predict it."""
    table = hospitals()
    column = pl.when(pl.col("hospital").str.starts_with("a ")).then(pl.col("truth.dice")).otherwise(0.5)
    leaky = replace(table, rows=table.rows.with_columns(column.alias("area.edema")))
    scores = {score.rung: score for score in predict_dice(leaky, table_of(3, seed=2, masks=False)).ladder}
    rows = np.flatnonzero(table.kinds == "a")
    error = scores["area"].predicted[rows] - table.values(["truth.dice"])[rows, 0]
    blind = scores["constant"].predicted[rows] - table.values(["truth.dice"])[rows, 0]
    assert np.abs(error).mean() > 0.9 * np.abs(blind).mean()


def test_few_patients_give_no_interval_and_fewer_no_prediction():
    target = table_of(3, seed=1, masks=False)
    found = predict_dice(table_of(6), target)
    assert np.isnan(found.low).all() and np.isfinite(found.target).all()
    with pytest.raises(ValueError, match="at least 4"):
        predict_dice(table_of(3), target)
    with pytest.raises(ValueError, match="0 patients of the source have a mask"):
        predict_dice(table_of(12, masks=False), target)


def test_a_feature_is_not_followed_far_beyond_the_source():
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (30, 1))
    features[-1] = 1e6
    rows = np.arange(29)
    dice = dice_of(0.5 * features[rows, 0])
    found = regress(features, rows, dice)
    assert found[-1] < dice_of(np.array([0.5 * 4.5]))[0]
    assert regress(np.full((5, 2), np.nan), np.arange(4), np.array([0.1, 0.2, 0.3, 0.6]))[4] == 0.25


def test_logit_goes_there_and_back():
    dice = np.array([0.05, 0.5, 0.9])
    assert dice_of(logit(dice)) == pytest.approx(dice)
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_every_rung_has_a_name_of_its_own():
    assert len({rung.name for rung in RUNGS}) == len(RUNGS) and all(rung.about for rung in RUNGS)
