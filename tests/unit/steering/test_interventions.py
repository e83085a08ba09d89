import pytest
import torch

from seglens.dictionaries.lens import Lens
from seglens.segmenters.scoring import evaluate
from seglens.steering.baselines import drop_class, logit_bias, predict_nothing
from seglens.steering.edits import change_of, steer
from seglens.steering.interventions import (
    CachedBatch,
    Intervention,
    change_intervention,
    evaluate_interventions,
    rule_intervention,
)

PLANTED = 3


@pytest.fixture
def fix(dictionary, make_edit):
    edit = make_edit(dictionary, (PLANTED,), "multiply", 3.0)
    change = change_of(dictionary, [edit])
    return edit, change_intervention("fix", "here", change, n_parameters=1, supervision="held_out")


def rows_of(scores, edit):
    return scores.table.filter(scores.table["edit"] == edit).drop("edit").rows()


def test_a_intervention_counts_as_a_whole_pass_would(segmenter, dictionary, evaluation, fix):
    edit, intervention = fix
    scores = evaluate_interventions([intervention], segmenter, evaluation, batch_size=5)
    assert rows_of(scores, "none") == rows_of(evaluate(segmenter, evaluation, batch_size=5), "none")
    with steer(Lens(segmenter, dictionary), edit):
        alone = evaluate(segmenter, evaluation, batch_size=5)
    assert rows_of(scores, "fix") == rows_of(alone, "none")
    assert scores.summary("fix").dice_pooled["edema"] == 1.0


def test_rules_say_what_they_said(segmenter, evaluation):
    rules = {"drop": drop_class(2), "nothing": predict_nothing, "bias": logit_bias([0.0, 0.5, -0.5])}
    interventions = [rule_intervention(name, rule, n_parameters=1, supervision="none") for name, rule in rules.items()]
    scores = evaluate_interventions(interventions, segmenter, evaluation)
    assert scores.summary("drop").dice_pooled["edema"] == 0.0
    assert scores.summary("nothing").missed["edema"] == scores.summary("nothing").n.dice_slice_present["edema"]
    batch = CachedBatch(segmenter, evaluation.images([0, 1]))
    for intervention in interventions:
        assert torch.equal(
            intervention.predict(batch).argmax(1).to(torch.uint8), rules[intervention.name](batch.logits)
        )


def test_the_front_of_the_network_runs_once_a_batch_for_all_interventions(segmenter, dictionary, evaluation, fix):
    _, intervention = fix
    passes = []
    handle = segmenter.network.stem[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        batch = CachedBatch(segmenter, evaluation.images([0, 1, 2]))
        intervention.predict(batch)
        before = len(passes)
        for _ in range(5):
            intervention.predict(batch)
    finally:
        handle.remove()
    assert len(passes) == before


def test_images_alone_are_enough(segmenter, evaluation, fix):
    _, intervention = fix
    images = evaluation.images([0, 1])
    assert torch.equal(intervention.logits(segmenter, images), intervention.predict(CachedBatch(segmenter, images)))


def test_names_must_differ(segmenter, evaluation):
    def same(batch):
        return batch.logits

    with pytest.raises(ValueError, match=r"twice: \['none'\]"):
        evaluate_interventions([Intervention("none", 0, "none", same)], segmenter, evaluation)
    with pytest.raises(ValueError, match=r"twice: \['a'\]"):
        evaluate_interventions(
            [Intervention("a", 0, "none", same), Intervention("a", 0, "none", same)], segmenter, evaluation
        )
