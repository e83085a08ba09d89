import pytest

from seglens.dictionaries.lens import Lens
from seglens.segmenters.scoring import evaluate
from seglens.steering.adaptation import tune_on
from seglens.steering.comparison import (
    FITTED,
    NEED_DEEP,
    NEED_UNTRAINED,
    constant_methods,
    fitted_methods,
    side_of,
)
from seglens.steering.fitted import inner_split
from seglens.steering.interventions import evaluate_interventions, rule_intervention


def test_the_constant_edit_and_the_rules_beside_it(segmenter, dictionary, selection, evaluation):
    found = constant_methods(Lens(segmenter, dictionary), selection, target="edema", specific=[7, 2])
    assert [one.name for one in found] == [
        "constant_edit",
        "ccf",
        "ccf_untuned",
        "uf",
        "logit_bias",
        "mean_ablation",
        "drop_class",
        "predict_nothing",
    ]
    assert all(0 <= one.chosen["inner_dice"] <= 1 for one in found[1:])
    edit = found[0].chosen["edit"]
    assert found[0].n_parameters == len(edit["latents"]) + 1 + (edit["gate"] is not None)
    scores = evaluate_interventions([one.interventions[0] for one in found], segmenter, evaluation)
    value = {name: scores.summary(name).dice_pooled["edema"] for name in scores.table["edit"].unique()}
    assert value["constant_edit"] > max(value[name] for name in ("none", "mean_ablation", "drop_class"))


def test_rules_are_compared_on_slices_that_they_were_not_tuned_on(segmenter, dictionary, selection):
    lens = Lens(segmenter, dictionary)
    training, last = inner_split(selection)
    assert not set(training.index["patient"]) & set(last.index["patient"])
    assert len(training) + len(last) == len(selection)
    rules = {one.name: one for one in constant_methods(lens, selection, target="edema")}
    inner = tune_on(segmenter, training, target=None)["logit_bias"].rule
    again = evaluate_interventions(
        [rule_intervention("again", inner, n_parameters=2, supervision="held_out")], segmenter, last
    )
    assert rules["logit_bias"].chosen["inner_dice"] == pytest.approx(again.pooled_by_edit()["again"])


def test_every_fitted_one_has_its_seeds_and_its_side(segmenter, dictionary, selection):
    names = [name for name in FITTED if name not in (*NEED_DEEP, *NEED_UNTRAINED, "norm_affines")]
    found = fitted_methods(Lens(segmenter, dictionary), selection, names, target="edema", steps=1, seeds=(0, 4))
    assert [one.name for one in found] == names
    assert [one.side for one in found] == [side_of(name) for name in names]
    assert [intervention.name for intervention in found[0].interventions] == ["latents", "latents, seed 4"]
    assert {one.name: one.side for one in found}["whole_suffix"] == "ceiling"
    counts = {one.name: one.n_parameters for one in found}
    assert counts["latents"] == 2 * dictionary.n_latents
    assert counts["top_latents"] <= counts["last_layer"]
    assert all(one.chosen["steps"] == 1 for one in found)
    before = evaluate(segmenter, selection).table
    evaluate_interventions([intervention for one in found for intervention in one.interventions], segmenter, selection)
    assert evaluate(segmenter, selection).table.equals(before)


def test_unknown_names_are_refused(segmenter, dictionary, selection):
    with pytest.raises(ValueError, match="no fitted method latents_two_depths, magic; with these dictionaries"):
        fitted_methods(Lens(segmenter, dictionary), selection, ["latents_two_depths", "magic"], target="edema")
