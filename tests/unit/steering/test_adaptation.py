import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.lens import Lens
from seglens.segmenters.intervals import patient_bootstrap
from seglens.segmenters.scoring import Scores, evaluate
from seglens.steering.adaptation import SteeringResult, steer_between, tune_on
from seglens.steering.edits import LatentEdit, steer
from seglens.steering.policies import oracle_scores
from seglens.steering.records import Extent
from seglens.steering.sweep import sweep

SETTINGS = {"target": "edema", "source": "adult", "n_latents": (1, 3), "random_draws": 2, "batch_size": 8}
SETTINGS["alphas"] = {"multiply": (0.0, 2.0, 3.0), "add": (-1.0, 1.0)}
BASELINES = {
    "ccf", "ccf_untuned", "uf", "logit_bias", "logit_bias_foreground", "drop_class", "predict_nothing",
    "flip_augmentation", "mean_ablation", "reconstruct_only", "random_latents", "random_best",
}  # fmt: skip


@pytest.fixture(scope="module")
def result(world):
    return steer_between(*world.parts, **SETTINGS)


def by(result, policy, operation):
    return next(row for row in result.results if (row.policy, row.operation) == (policy, operation))


def test_every_policy_stands_beside_every_baseline(result):
    pairs = [(row.policy, row.operation) for row in result.results]
    assert pairs == [("held_out", "multiply"), ("held_out", "add"), ("oracle", "multiply"), ("oracle", "add")]
    for row in result.results:
        assert set(row.baselines) == BASELINES
        assert (row.source, row.target, row.class_name) == ("adult", "target", "edema")
        assert row.selection == Extent("target", patients=4, slices=16)
        assert row.evaluation == Extent("target", patients=5, slices=20)
        assert row.baselines["predict_nothing"].recall["foreground"] == 0
        assert row.baselines["drop_class"].recall["edema"] == 0
    assert [row.chosen for row in result.results] == [True, False, True, False]


def test_figures_are_those_of_a_plain_steered_evaluation(segmenter, dictionary, evaluation, result):
    row = by(result, "held_out", "multiply")
    assert (row.latents, row.alpha) == ((3,), 3.0)
    assert row.before == evaluate(segmenter, evaluation).summary()
    with steer(Lens(segmenter, dictionary), LatentEdit.from_description(row.edit_description)):
        assert row.after == evaluate(segmenter, evaluation).summary()
    assert row.after.dice("edema").value == 1.0
    assert row.baselines["random_latents"].dice("edema").value < 1.0


def test_gains_are_those_of_the_patient_bootstrap_and_the_baseline_is_chosen_on_the_selection(
    segmenter, dictionary, selection, result
):
    row, scores = by(result, "held_out", "multiply"), Scores(result.scores)
    assert set(row.gains) == {"none", *BASELINES}
    for name in ("none", "logit_bias", "reconstruct_only"):
        wanted = patient_bootstrap(scores, "chosen multiply 3", name, "edema")
        assert (row.gains[name].value, row.gains[name].low) == pytest.approx((wanted.value, wanted.low))
    drawn = [name for name in scores.table["edit"].unique() if name.startswith("random ") and "multiply" in name]
    over = [patient_bootstrap(scores, "chosen multiply 3", name, "edema").value for name in drawn]
    assert min(over) - 1e-9 <= row.gains["random_latents"].value <= max(over) + 1e-9
    rules = {name: rule.rule for name, rule in tune_on(segmenter, selection, target=2).items()}
    value = sweep(Lens(segmenter, dictionary), selection, {}, rules=rules).pooled_by_edit("edema")
    assert value[row.best_baseline] == max(value[name] for name in rules)
    assert row.gains["none"].sign == 1


def test_the_oracle_is_no_worse_on_any_slice(result):
    row = by(result, "oracle", "add")
    assert row.alpha is None
    assert (
        row.after.dice("edema", "slice_empty1").value
        >= by(result, "held_out", "add").after.dice("edema", "slice_empty1").value
    )
    edits = [name for name in result.scores["edit"].unique() if name.startswith("chosen add")]
    again = oracle_scores(Scores(result.scores), edits, target=2, name="again")
    # unique() gives another order of the edits, which may only matter for ties among edits
    assert again.dice("edema", "slice_empty1", edit="again").value == row.after.dice("edema", "slice_empty1").value


def test_nothing_is_chosen_on_evaluation_masks(world, result):
    evaluation = world.evaluation
    order = torch.randperm(len(evaluation), generator=torch.Generator().manual_seed(0))
    shuffled = evaluation.from_tensors(
        evaluation.images(), evaluation.masks()[order], evaluation.brains(), evaluation.index,
        name=evaluation.name, sequences=evaluation.sequences, labels=evaluation.labels,
    )  # fmt: skip
    other = steer_between(*world.parts[:3], shuffled, **SETTINGS)
    assert_frame_equal(other.selection, result.selection)
    for operation in ("multiply", "add"):
        mine, its = by(result, "held_out", operation), by(other, "held_out", operation)
        for key in ("edit", "latents", "alpha", "settings", "chosen", "chosen_by"):
            assert getattr(mine, key) == getattr(its, key)
        assert mine.after != its.after
    predicted = pl.col("edit").str.starts_with("random") & (pl.col("label") == 2)
    assert (
        result.scores.filter(predicted)["predicted"].to_list() == other.scores.filter(predicted)["predicted"].to_list()
    )


def test_curves_hold_every_alpha_and_the_untouched_network(result):
    keys = result.curves.select("operation", "latents", "class").unique()
    assert len(keys) == 2 * 2 * 2
    neutral = result.curves.filter(
        ((pl.col("operation") == "multiply") & (pl.col("alpha") == 1))
        | ((pl.col("operation") == "add") & (pl.col("alpha") == 0))
    )
    before = result.results[0].before.dice_pooled
    assert {(row["class"], row["dice_pooled"]) for row in neutral.iter_rows(named=True)} == {
        ("edema", before["edema"]), ("foreground", before["foreground"]),
    }  # fmt: skip
    chosen = result.curves.filter(
        (pl.col("operation") == "multiply") & (pl.col("latents") == "chosen") & (pl.col("class") == "edema")
    )
    assert chosen["alpha"].to_list() == [0.0, 1.0, 2.0, 3.0]
    assert chosen.filter(pl.col("alpha") == 3)["dice_pooled"].to_list() == [1.0]


def test_written_and_read(result, tmp_path):
    with new_artifact(tmp_path / "steering", kind="steering", inputs={}) as draft:
        result.write(draft)
    read = SteeringResult.read(read_artifact(tmp_path / "steering", "steering"))
    assert read.results == result.results
    for name in ("curves", "selection", "scores"):
        assert_frame_equal(getattr(read, name), getattr(result, name))


def test_two_runs_agree(world, result):
    again = steer_between(*world.parts, **SETTINGS)
    assert again.results == result.results
    assert_frame_equal(again.scores, result.scores)


def test_a_patient_in_both_sets_is_refused(segmenter, dictionary, atlas, selection, evaluation):
    with pytest.raises(ValueError, match="target1-0"):
        steer_between(Lens(segmenter, dictionary), atlas, selection, selection, **SETTINGS)
    with pytest.raises(ValueError, match="0 evaluation slices"):
        steer_between(Lens(segmenter, dictionary), atlas, selection, evaluation.select([]), **SETTINGS)


def test_where_no_latent_fires_the_result_is_the_untouched_network(segmenter, dictionary, atlas, selection, evaluation):
    dictionary.theta.fill_(1e6)
    result = steer_between(Lens(segmenter, dictionary), atlas, selection, evaluation, **SETTINGS)
    for row in result.results:
        assert row.after == row.before == row.baselines["random_latents"]
        assert row.latents == ()
