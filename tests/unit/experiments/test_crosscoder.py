from dataclasses import replace
from math import prod

import polars as pl
import pytest
import torch

from seglens.activations.hooks import activations
from seglens.dictionaries.controls import LENS, PIXELS, RUNGS, UNTRAINED_NETWORK
from seglens.diffing.functional import area_weights
from seglens.diffing.nulls import NULLS
from seglens.experiments import NotApplicableError, crosscoder
from seglens.experiments.activation_cache import ActivationCache
from seglens.experiments.crosscoder import chosen_pairs, fits_of
from seglens.experiments.crosscoder_tables import (
    EFFECTS,
    REAL,
    SAME_POSITION,
    TWICE,
    calibrated,
    errors_above_nulls,
    summarised,
)
from seglens.experiments.function import match_by_function
from seglens.runs import Run
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study
from seglens.studies.table import analysis_table


@pytest.fixture(scope="module")
def study(tiny_settings, tmp_path_factory):
    """Two segmenters of different token grids on one cohort of squares."""
    settings = tiny_settings.model_dump(mode="json")
    settings["segmenters"]["unet"] = {"cohort": "squares", "architecture": "unet", "steps": 2, "batch_size": 6}
    run = Run(tmp_path_factory.mktemp("crosscoder"))
    checked = StudySettings.model_validate(settings)
    with run.writing(checked.model_dump(mode="json")):
        yield Study(checked, run, analysis_table())


def test_every_pair_has_its_hardest_null_and_the_first_all_controls():
    pairs = [("a", "b"), ("a", "c")]
    plan = fits_of(pairs)
    assert len(set(plan)) == len(plan) == 7 * 3 + 3 * 3 + 3
    every = {REAL, TWICE, *NULLS, PIXELS, UNTRAINED_NETWORK}
    assert {condition for pair, condition, _, _ in plan if pair == pairs[0]} == every
    assert {condition for pair, condition, _, _ in plan if pair == pairs[1]} == {REAL, SAME_POSITION, UNTRAINED_NETWORK}


def table(values):
    rows = [
        {"pair": "a / b", "condition": condition, "seed": seed, "figure": "shared", "value": value}
        for condition, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return summarised(pl.DataFrame(rows, schema_overrides={"value": pl.Float64}))


def test_errors_above_the_highest_null_are_those_of_the_difference():
    summary = table({REAL: [0.5, 0.6, 0.7], SAME_POSITION: [0.0, 0.1, 0.2], "white noise": [0.0, 0.0, 0.0]})
    error = 0.1 / 3**0.5
    real = summary.row(by_predicate=pl.col("condition") == REAL, named=True)
    assert real["mean"] == pytest.approx(0.6)
    assert (real["standard error"], real["fits"]) == (pytest.approx(error), 3)
    assert (real["low"], real["high"]) == (pytest.approx(0.6 - error), pytest.approx(0.6 + error))
    assert errors_above_nulls(summary, "a / b") == pytest.approx(0.5 / (error * 2**0.5))
    assert errors_above_nulls(summary, "a / c") is None
    assert errors_above_nulls(table({REAL: [0.5], SAME_POSITION: [0.1]}), "a / b") is None


def test_an_untrained_twin_that_shares_as_much_leaves_nothing():
    """Half a standard error above the untrained network is no finding, however far permuted tokens are below."""
    shares = {REAL: [0.30, 0.31, 0.32], TWICE: [0.8] * 3, UNTRAINED_NETWORK: [0.29, 0.31, 0.33]}
    summary = table(shares | {"permuted tokens": [0.01, 0.0, 0.01]})
    assert abs(errors_above_nulls(summary, "a / b")) < 1
    (row,) = calibrated(summary).to_dicts()
    assert row["calibrated"] == pytest.approx(0, abs=1e-9) and row["error"] > 0
    grown = calibrated(table(shares | {REAL: [0.555] * 3})).row(0, named=True)
    assert (grown["untrained"], grown["twice"]) == (pytest.approx(0.31), pytest.approx(0.8))
    assert grown["calibrated"] == pytest.approx(0.5)
    unknown = calibrated(table(shares | {TWICE: [0.2] * 3})).row(0, named=True)
    assert unknown["calibrated"] is None


def test_a_single_segmenter_cannot_carry_it(tiny_settings, tmp_path):
    with pytest.raises(NotApplicableError, match="two segmenters on the same slices; the study has squares"):
        chosen_pairs(Study(tiny_settings, Run(tmp_path), analysis_table()))


def test_activations_are_averaged_to_the_common_grid_and_name_patients(study):
    kept, names = ActivationCache(study), ("squares", "unet")
    grid = kept.common_grid(names)
    assert grid == min(kept.grid("squares"), kept.grid("unet")) != max(kept.grid("squares"), kept.grid("unet"))
    stores = kept.stores(
        [kept.side(name) for name in names], kept.cohorts(names), "test", grid=grid, most_tokens=4 * prod(grid)
    )
    slices = study.own_slices("unet", "test").select([0, 2, 4, 6])
    with torch.no_grad():
        raw = activations(study.segmenter("unet"), study.hookpoint("unet"), slices.images())
    weights = torch.from_numpy(area_weights(raw.shape[2], grid[1]).toarray()).float()
    expected = torch.einsum("bzhwd,yh,xw->bzyxd", raw, weights, weights)
    torch.testing.assert_close(stores["unet"].slice_tokens(range(4)), expected, rtol=1e-4, atol=1e-5)
    assert stores["unet"].index["patient"].to_list() == slices.index["patient"].to_list()
    assert stores["unet"].slices_hash == stores["squares"].slices_hash


def test_matched_by_function_one_model_agrees_with_itself_and_not_with_permuted_tokens(study):
    rows = match_by_function(study, ActivationCache(study), ("squares", "squares")).rows_by_key(
        "compared", named=True, unique=True
    )
    assert rows["same slices"]["correlation"] == pytest.approx(1, abs=1e-5)
    assert rows["same slices"]["overlap of firing"] == pytest.approx(1)
    for null in NULLS:
        assert rows[null]["correlation"] < 0.9
        assert rows[null]["overlap of firing"] < 0.9


def test_the_experiment_gives_its_figures_and_finds_its_fits_again(study, monkeypatch):
    monkeypatch.setattr(
        crosscoder, "CROSSCODER_FIT", replace(crosscoder.CROSSCODER_FIT, k=4, expansion=1, steps=3, batch_size=256)
    )
    found = crosscoder.run(study, lambda *_: None)
    assert set(found.tables) == {"controls", "calibrated", "summary", "functional", "longer fits", "fits"}
    ladder = found.tables["controls"].filter(pl.col("claim") == "squares / unet, shared")
    assert ladder["features"].to_list() == [LENS, *RUNGS]
    untrained = ladder.row(by_predicate=pl.col("features") == UNTRAINED_NETWORK, named=True)
    fits = found.tables["fits"].filter(pl.col("condition") == UNTRAINED_NETWORK, pl.col("figure") == "shared")
    assert untrained["mean"] == pytest.approx(fits.filter(pl.col("steps") == 3)["value"].mean())
    effects = found.tables["summary"].filter(pl.col("figure") == EFFECTS).drop_nulls("mean")
    assert set(effects["condition"]) == {REAL, TWICE, UNTRAINED_NETWORK}
    assert effects["mean"].is_between(-1, 1).all() and effects["fits"].to_list() == [3] * 3
    assert found.tables["longer fits"]["steps"].unique().to_list() == [9]
    shared = found.tables["summary"].filter(pl.col("figure") == "shared")
    assert set(shared["condition"]) == {REAL, TWICE, *NULLS, PIXELS, UNTRAINED_NETWORK}
    assert shared["fits"].to_list() == [3] * 7
    assert found.headline["shared, highest null of any pair"] == pytest.approx(
        shared.filter(pl.col("condition").is_in([*NULLS, PIXELS, UNTRAINED_NETWORK]))["mean"].max()
    )
    assert len(study.run.stages("crosscoder/")) == len(fits_of([("squares", "unet")]))
    before = study.run.timings
    again = crosscoder.run(study, lambda *_: None)
    assert study.run.timings == before
    assert again.headline == found.headline
    assert "squares / unet, from different random weights, " in " ".join(found.paragraphs)
    for figure in crosscoder.EXPERIMENT.figures:
        drawn = found.tables[figure.table]
        named = [figure.x, figure.y, figure.value, figure.series, figure.panel, figure.low, figure.high, *figure.only]
        assert {name for name in named if name} <= set(drawn.columns)
