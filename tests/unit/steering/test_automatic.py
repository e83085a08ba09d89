"""What `--policy auto` says, where the answer is known."""

import polars as pl
import pytest
import torch

from seglens.cohorts.slices import SliceSet
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.steering import automatic
from seglens.steering.automatic import choose_correction
from seglens.steering.baselines import predict_nothing
from seglens.steering.contest import Contestant, fitted_contestants
from seglens.steering.corrections import change_correction, judge, rule_correction
from seglens.steering.edits import change_of

PLANTED = 3


@pytest.fixture
def contest(dictionary, make_edit):
    """A cure, an edit that does nothing, and a rival; which slices each was chosen on is kept."""
    seen = []

    def chosen_on(slices):
        seen.append(sorted(set(slices.index["patient"])))
        cure = change_of(dictionary, [make_edit(dictionary, (PLANTED,), "multiply", 3.0)])
        nothing = change_of(dictionary, [make_edit(dictionary, (1,), "multiply", 1.0)])
        return [
            Contestant(name, "edit", [change_correction(name, "here", own, n_parameters=1, supervision="held_out")])
            for name, own in (("cure", cure), ("idle", nothing))
        ] + [
            Contestant(
                "nothing", "rival", [rule_correction("nothing", predict_nothing, n_parameters=0, supervision="none")]
            )
        ]

    chosen_on.seen = seen
    return chosen_on


def without(contest, name):
    return lambda slices: [one for one in contest(slices) if one.name != name]


def test_the_cure_is_chosen_and_cures_others(segmenter, dictionary, selection, evaluation, contest):
    verdict = choose_correction(segmenter, dictionary, selection, target="edema", contest=contest, folds=2)
    assert (verdict.edit, verdict.rival) == ("cure", "none")
    assert verdict.lead.low > 0
    assert verdict.correction.name == "cure"
    assert "the best of 2 edits, cure, beats the best of 2 rivals, none, by" in verdict.sentence
    assert "over 4 patients, cross-validated" in verdict.sentence
    scores = judge([verdict.correction], segmenter, evaluation)
    assert scores.summary("cure")["dice_pooled"]["edema"] == 1.0
    assert verdict.table["name"].to_list()[0] == "cure"


def test_no_edit_helps_and_that_is_said(segmenter, dictionary, selection, contest):
    verdict = choose_correction(
        segmenter, dictionary, selection, target="edema", contest=without(contest, "cure"), folds=2
    )
    assert verdict.correction is None
    assert verdict.sentence.startswith("no edit helps: the best of 1 edits, idle, against the best of 2 rivals, none: ")
    assert verdict.lead.value == 0.0


def test_an_edit_that_only_equals_a_rival_is_not_taken(segmenter, dictionary, selection, contest, make_edit):
    change = change_of(dictionary, [make_edit(dictionary, (PLANTED,), "multiply", 3.0)])
    rival = Contestant(
        "refit", "rival", [change_correction("refit", "here", change, n_parameters=1, supervision="held_out")]
    )
    verdict = choose_correction(
        segmenter, dictionary, selection, target="edema", contest=lambda slices: [*contest(slices), rival], folds=2
    )
    assert (verdict.rival, verdict.correction) == ("refit", None)


@pytest.mark.parametrize(("hits", "helps"), [((52, 52, 80), False), ((60, 62, 64), True)])
def test_of_three_patients_a_gain_in_each_is_not_enough(world, contest, monkeypatch, hits, helps):
    # Dice of .50 untouched: gains of .02, .02 and .30 are .11 +- .40, those of .10, .12 and .14 are .12 +- .05
    three = world.selection.select(range(12))
    cured = dict(zip(sorted(set(three.index["patient"])), hits, strict=True))

    def judged(corrections, segmenter, slices, *, batch_size):
        rows = [
            {"edit": edit, "row": row, "case": patient, "patient": patient, "volume": patient, "label": 1,
             "class": "core", "tp": cured[patient] if edit == "cure" else 50, "predicted": 100, "truth": 100,
             "hd95_mm": None}
            for edit in ("none", *(correction.name for correction in corrections))
            for row, patient in enumerate(slices.index["patient"])
        ]  # fmt: skip
        return Scores(pl.DataFrame(rows, schema=SCHEMA))

    monkeypatch.setattr(automatic, "judge", judged)
    verdict = choose_correction(world.segmenter, world.dictionary, three, target="core", contest=contest, folds=3)
    assert (verdict.edit, verdict.lead.n_patients) == ("cure", 3)
    assert verdict.lead.value == pytest.approx(sum(hits) / 300 - 0.5)
    assert (verdict.correction is not None) == helps
    assert "over 3 patients" in verdict.sentence


def test_nothing_is_judged_on_the_patients_that_it_was_chosen_on(segmenter, dictionary, selection, contest):
    choose_correction(segmenter, dictionary, selection, target="edema", contest=without(contest, "cure"), folds=2)
    patients = sorted(set(selection.index["patient"]))
    assert contest.seen == [patients[1::2], patients[0::2]]


def test_masks_of_evaluation_patients_change_nothing(segmenter, dictionary, selection, evaluation):
    # the whole of it, on slices of which the selection patients are a part: other masks elsewhere, same verdict
    def whole(masks):
        images = torch.cat([selection.images(), evaluation.images()])
        index = pl.concat([selection.index, evaluation.index]).select("case", "patient")
        return SliceSet.from_tensors(
            images, masks, torch.ones(masks.shape, dtype=torch.bool), index,
            name="target", sequences=selection.sequences, labels=selection.labels,
        )  # fmt: skip

    def contest(slices):
        names = ("latents", "logit_affine")
        return fitted_contestants(segmenter, dictionary, slices, names, target="edema", steps=2)

    verdicts = []
    for elsewhere in (evaluation.masks(), torch.zeros_like(evaluation.masks())):
        slices = whole(torch.cat([selection.masks(), elsewhere]))
        chosen = slices.select(range(len(selection)))
        verdicts.append(choose_correction(segmenter, dictionary, chosen, target="edema", contest=contest, folds=2))
    assert verdicts[0].table.equals(verdicts[1].table)
    assert verdicts[0].lead == verdicts[1].lead
    images = evaluation.images([0])
    if verdicts[0].correction is not None:
        one, other = (verdict.correction.logits(segmenter, images) for verdict in verdicts)
        assert torch.equal(one, other)


def test_too_few_patients(segmenter, dictionary, selection, contest):
    with pytest.raises(ValueError, match="5 folds need as many"):
        choose_correction(segmenter, dictionary, selection, target="edema", contest=contest, folds=5)
