import pytest
import torch

from seglens.segmenters.scoring import evaluate
from seglens.steering.baselines import drop_class, logit_bias, predict_nothing
from seglens.steering.corrections import Correction, Seen, change_correction, judge, rule_correction
from seglens.steering.edits import change_of, steer

PLANTED = 3


@pytest.fixture
def cure(dictionary, make_edit):
    edit = make_edit(dictionary, (PLANTED,), "multiply", 3.0)
    change = change_of(dictionary, [edit])
    return edit, change_correction("cure", "here", change, n_parameters=1, supervision="held_out")


def rows_of(scores, edit):
    return scores.table.filter(scores.table["edit"] == edit).drop("edit").rows()


def test_a_correction_counts_as_a_whole_pass_would(segmenter, dictionary, evaluation, cure):
    edit, correction = cure
    scores = judge([correction], segmenter, evaluation, batch_size=5)
    assert rows_of(scores, "none") == rows_of(evaluate(segmenter, evaluation, batch_size=5), "none")
    with steer(segmenter, dictionary, [edit]):
        alone = evaluate(segmenter, evaluation, batch_size=5)
    assert rows_of(scores, "cure") == rows_of(alone, "none")
    assert scores.summary("cure")["dice_pooled"]["edema"] == 1.0


def test_rules_say_what_they_said(segmenter, evaluation):
    rules = {"drop": drop_class(2), "nothing": predict_nothing, "bias": logit_bias([0.0, 0.5, -0.5])}
    corrections = [rule_correction(name, rule, n_parameters=1, supervision="none") for name, rule in rules.items()]
    scores = judge(corrections, segmenter, evaluation)
    assert scores.summary("drop")["dice_pooled"]["edema"] == 0.0
    assert scores.summary("nothing")["missed"]["edema"] == scores.summary("nothing")["n"]["dice_slice_present"]["edema"]
    seen = Seen(segmenter, evaluation.images([0, 1]))
    for correction in corrections:
        assert torch.equal(correction.predict(seen).argmax(1).to(torch.uint8), rules[correction.name](seen.logits))


def test_the_front_of_the_network_runs_once_a_batch_for_all_corrections(segmenter, dictionary, evaluation, cure):
    _, correction = cure
    passes = []
    handle = segmenter.network.stem[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        seen = Seen(segmenter, evaluation.images([0, 1, 2]))
        correction.predict(seen)
        before = len(passes)
        for _ in range(5):
            correction.predict(seen)
    finally:
        handle.remove()
    assert len(passes) == before


def test_images_alone_are_enough(segmenter, evaluation, cure):
    _, correction = cure
    images = evaluation.images([0, 1])
    assert torch.equal(correction.logits(segmenter, images), correction.predict(Seen(segmenter, images)))


def test_names_must_differ(segmenter, evaluation):
    def same(seen):
        return seen.logits

    with pytest.raises(ValueError, match=r"twice: \['none'\]"):
        judge([Correction("none", 0, "none", same)], segmenter, evaluation)
    with pytest.raises(ValueError, match=r"twice: \['a'\]"):
        judge([Correction("a", 0, "none", same), Correction("a", 0, "none", same)], segmenter, evaluation)
