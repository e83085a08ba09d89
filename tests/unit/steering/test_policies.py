from dataclasses import replace

import polars as pl
import pytest

from seglens.dictionaries.lens import Lens
from seglens.segmenters.scoring import Scores, evaluate
from seglens.steering.edits import steer
from seglens.steering.policies import (
    choose_edit,
    oracle_choice,
    oracle_scores,
)
from seglens.steering.searching import random_searches

PLANTED = 3


@pytest.fixture(scope="module")
def chosen(world):
    return choose_edit(*world.parts[:3], target="edema", n_latents=(1, 3))


def test_the_planted_latent_is_found_and_fixes(world, chosen):
    segmenter, dictionary, evaluation = world.segmenter, world.dictionary, world.evaluation
    assert chosen.edit.latents == (PLANTED,)
    assert (chosen.edit.operation, chosen.edit.value) == ("multiply", 3.0)
    assert chosen.chosen_by(chosen.edit) == "causal"
    before = evaluate(segmenter, evaluation).summary().dice_pooled["edema"]
    with steer(Lens(segmenter, dictionary), chosen):
        after = evaluate(segmenter, evaluation).summary().dice_pooled["edema"]
    assert before < after
    assert after == 1.0


def test_the_choice_is_the_best_of_its_table(chosen):
    full = chosen.selection.filter(pl.col("stage") == "full").sort("objective", descending=True)
    assert full["edit"][0] == chosen.edit.name
    for operation, edit in chosen.by_operation.items():
        best = full.filter(pl.col("operation") == operation)
        assert best["edit"][0] == edit.name
    coarse = chosen.selection.filter(pl.col("stage") == "coarse")
    assert set(full["edit"]) <= set(coarse["edit"])
    assert coarse["edit"].is_unique().all()
    # 16 slices are all of them already in the coarse stage
    joined = full.join(coarse, on="edit")
    assert joined["objective"].to_list() == joined["objective_right"].to_list()


def test_causal_alphas_go_the_way_of_the_effect(chosen):
    up, down = set(), set()
    for row in chosen.selection.filter(pl.col("chosen_by") == "causal").iter_rows(named=True):
        neutral = 1.0 if row["operation"] == "multiply" else 0.0
        (up if row["value"] > neutral else down).add((row["operation"], tuple(row["latents"])))
    assert up
    assert down
    assert not up & down


def test_where_nothing_helps_the_choice_is_an_identity(segmenter, dictionary, atlas, selection):
    right = selection.from_tensors(
        selection.images(), segmenter.predict(selection.images()), selection.brains(), selection.index,
        name="right", sequences=selection.sequences, labels=selection.labels,
    )  # fmt: skip
    chosen = choose_edit(Lens(segmenter, dictionary), atlas, right, target="edema", n_latents=(1,))
    assert chosen.edit.is_identity
    assert all(edit.is_identity for edit in chosen.by_operation.values())
    assert chosen.chosen_by(chosen.edit) == "nothing beat the untouched network"


def test_only_allowed_latents_and_operations(segmenter, dictionary, atlas, selection):
    chosen = choose_edit(
        Lens(segmenter, dictionary),
        atlas,
        selection,
        target="edema",
        n_latents=(2,),
        candidates=[1, 3, 20],
        operations=("add",),
    )
    tried = {latent for latents in chosen.selection["latents"].to_list() for latent in latents}
    assert tried <= {1, 3, 20}
    assert list(chosen.by_operation) == ["add"]


def test_dead_dictionaries_give_an_identity(segmenter, dictionary, atlas, selection):
    dictionary.theta.fill_(1e6)
    chosen = choose_edit(Lens(segmenter, dictionary), atlas, selection, target="edema")
    assert chosen.edit.is_identity
    assert chosen.edit.latents == ()


def test_misuse_is_explained(segmenter, dictionary, atlas, selection):
    with pytest.raises(ValueError, match="core, edema"):
        choose_edit(Lens(segmenter, dictionary), atlas, selection, target="oedema")
    with pytest.raises(ValueError, match="no alphas for add"):
        choose_edit(Lens(segmenter, dictionary), atlas, selection, target="edema", alphas={"multiply": (2.0,)})


def table(rows):
    names = {0: "background", 1: "core", 2: "edema"}
    return Scores(
        pl.DataFrame(
            [
                {
                    "edit": edit, "row": row, "case": "c", "patient": "p", "volume": "v", "label": label,
                    "class": names[label], "tp": tp, "predicted": predicted, "truth": truth, "hd95_mm": None,
                }
                for edit, row, label, tp, predicted, truth in rows
            ],
            schema_overrides={"hd95_mm": pl.Float64},
        )
    )  # fmt: skip


SCORES = table(
    [
        ("none", 0, 1, 4, 10, 8), ("none", 0, 2, 0, 0, 0), ("none", 1, 1, 0, 3, 0), ("none", 1, 2, 1, 2, 4),
        ("a", 0, 1, 8, 8, 8), ("a", 0, 2, 0, 5, 0), ("a", 1, 1, 0, 0, 0), ("a", 1, 2, 1, 2, 4),
        ("b", 0, 1, 8, 8, 8), ("b", 0, 2, 0, 0, 0), ("b", 1, 1, 0, 9, 0), ("b", 1, 2, 3, 3, 4),
    ]
)  # fmt: skip


def test_slice_dice_by_hand():
    edema = {(row["edit"], row["row"]): row["dice"] for row in SCORES.slice_dice("edema").iter_rows(named=True)}
    assert edema == pytest.approx(
        {("none", 0): 1.0, ("none", 1): 2 / 6, ("a", 0): 0.0, ("a", 1): 2 / 6, ("b", 0): 1.0, ("b", 1): 6 / 7}
    )
    foreground = {
        (row["edit"], row["row"]): row["dice"]
        for row in SCORES.slice_dice(convention="slice_present").iter_rows(named=True)
    }
    assert foreground[("none", 0)] == pytest.approx(8 / 18)  # edema is not in that mask
    assert foreground[("b", 1)] == pytest.approx(6 / 7)


def test_the_oracle_takes_the_best_edit_of_each_slice():
    best = oracle_scores(SCORES, ["a", "b"], target=2).table
    assert best["edit"].unique().to_list() == ["oracle"]
    assert best.filter(pl.col("label") == 2).select("row", "tp", "predicted").rows() == [(0, 0, 0), (1, 3, 3)]
    # in slice 0 none and b tie on edema: the untouched network is kept, so core stays as it was
    assert best.filter((pl.col("label") == 1) & (pl.col("row") == 0))["tp"].to_list() == [4]
    assert oracle_scores(SCORES, [], target=2).table["tp"].to_list() == [4, 0, 0, 1]


def test_pooled_objective_sums_over_slices():
    assert SCORES.pooled_by_edit("edema") == pytest.approx({"none": 2 / 6, "a": 2 / 11, "b": 6 / 7})


def test_foreground_objective_is_that_of_the_summary():
    by_hand = {"none": (8 / 21 + 2 / 6) / 2, "a": (1 + 2 / 11) / 2, "b": (16 / 25 + 6 / 7) / 2}
    assert SCORES.pooled_by_edit() == pytest.approx(by_hand)
    assert by_hand["b"] == pytest.approx(SCORES.summary("b").dice_pooled["foreground"])
    nowhere = table([("none", 0, 1, 0, 0, 0)])
    assert nowhere.pooled_by_edit() == {"none": 0.0}


def test_an_edit_is_chosen_for_the_objective_that_is_asked_for(world):
    def worst(scores):
        return {edit: -value for edit, value in scores.pooled_by_edit().items()}

    found = choose_edit(*world.parts[:3], target="edema", n_latents=(1, 3), objective=worst)
    assert found.selection["objective"].max() <= 0


def test_random_latents_are_searched_as_freely_as_the_edit(world, chosen):
    parts = (world.parts[0], world.selection, chosen)
    settings = {"objective": lambda scores: scores.pooled_by_edit("edema"), "seed": 1}
    draws = random_searches(*parts, draws=2, **settings)

    def freedom(found):
        return sorted(
            (candidate.edit.operation, candidate.edit.value, len(candidate.edit.latents))
            for candidate in found.candidates
        )

    for found in draws:
        assert freedom(found) == freedom(chosen)
        assert set(found.by_operation) == set(chosen.by_operation)
        for candidate in found.candidates:
            assert PLANTED not in candidate.edit.latents
        full = found.selection.filter(pl.col("stage") == "full")
        assert found.value_of(found.edit) == full["objective"].max() >= found.value_of(replace(found.edit, latents=()))
        assert found.value_of(found.edit) < chosen.value_of(chosen.edit)
    sets = [{candidate.edit.latents for candidate in found.candidates} for found in draws]
    assert sets[0] != sets[1]
    again = random_searches(*parts, draws=2, **settings)
    assert [found.edit for found in again] == [found.edit for found in draws]
    expected = [chosen.effects.firing[latent] for latent in chosen.edit.latents]
    assert chosen.firing_rate(chosen.edit) == pytest.approx(float(sum(expected)) / len(expected))


def test_random_sets_that_do_not_help_are_identities(world, chosen):
    def nothing(scores):
        return {name: float(name == "none") for name in scores.table["edit"].unique()}

    (found,) = random_searches(
        Lens(world.segmenter, world.dictionary), world.selection, chosen, draws=1, objective=nothing, seed=0
    )
    assert found.edit.is_identity
    assert found.edit.latents


def test_equal_dice_goes_to_the_fewest_false_positives():
    scores = table(
        [
            ("none", 0, 2, 0, 9, 0), ("a", 0, 2, 0, 2, 0), ("b", 0, 2, 0, 5, 0),
            ("none", 1, 2, 2, 2, 4), ("a", 1, 2, 2, 2, 4), ("b", 1, 2, 2, 2, 4),
        ]
    )  # fmt: skip
    assert oracle_choice(scores, ["a", "b"], target=2).rows() == [(0, "a"), (1, "none")]
