"""What `seglens verdict` says, where the answer is known."""

import polars as pl
import pytest
import torch

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.steering import automatic
from seglens.steering.automatic import choose_intervention
from seglens.steering.baselines import predict_nothing
from seglens.steering.comparison import Method, fitted_methods
from seglens.steering.edits import change_of
from seglens.steering.interventions import change_intervention, evaluate_interventions, rule_intervention

PLANTED = 3


@pytest.fixture
def comparison(dictionary, make_edit):
    """A fix, an edit that does nothing, and a baseline; which slices each was chosen on is kept."""
    seen = []

    def chosen_on(slices):
        seen.append(sorted(set(slices.index["patient"])))
        fix = change_of(dictionary, [make_edit(dictionary, (PLANTED,), "multiply", 3.0)])
        nothing = change_of(dictionary, [make_edit(dictionary, (1,), "multiply", 1.0)])
        return [
            Method(name, "edit", [change_intervention(name, "here", own, n_parameters=1, supervision="held_out")])
            for name, own in (("fix", fix), ("idle", nothing))
        ] + [
            Method(
                "nothing",
                "baseline",
                [rule_intervention("nothing", predict_nothing, n_parameters=0, supervision="none")],
            )
        ]

    chosen_on.seen = seen
    return chosen_on


def without(comparison, name):
    return lambda slices: [one for one in comparison(slices) if one.name != name]


def test_the_fix_is_chosen_and_fixes_others(segmenter, dictionary, selection, evaluation, comparison):
    verdict = choose_intervention(
        Lens(segmenter, dictionary), selection, target="edema", comparison=comparison, folds=2
    )
    assert (verdict.edit, verdict.baseline) == ("fix", "none")
    assert verdict.improvement.low > 0
    assert verdict.intervention.name == "fix"
    assert "the best of 2 edits, fix, beats the best of 2 baselines, none, by" in verdict.sentence
    assert "over 4 patients, cross-validated" in verdict.sentence
    scores = evaluate_interventions([verdict.intervention], segmenter, evaluation)
    assert scores.summary("fix").dice_pooled["edema"] == 1.0
    assert verdict.table["name"].to_list()[0] == "fix"


def test_no_edit_helps_and_that_is_said(segmenter, dictionary, selection, comparison):
    verdict = choose_intervention(
        Lens(segmenter, dictionary), selection, target="edema", comparison=without(comparison, "fix"), folds=2
    )
    assert verdict.intervention is None
    assert verdict.sentence.startswith(
        "no edit helps: the best of 1 edits, idle, against the best of 2 baselines, none: "
    )
    assert verdict.improvement.value == 0.0


def test_an_edit_that_only_equals_a_baseline_is_not_taken(segmenter, dictionary, selection, comparison, make_edit):
    change = change_of(dictionary, [make_edit(dictionary, (PLANTED,), "multiply", 3.0)])
    baseline = Method(
        "refit", "baseline", [change_intervention("refit", "here", change, n_parameters=1, supervision="held_out")]
    )
    verdict = choose_intervention(
        Lens(segmenter, dictionary),
        selection,
        target="edema",
        comparison=lambda slices: [*comparison(slices), baseline],
        folds=2,
    )
    assert (verdict.baseline, verdict.intervention) == ("refit", None)


@pytest.mark.parametrize(("hits", "helps"), [((52, 52, 80), False), ((60, 62, 64), True)])
def test_of_three_patients_a_gain_in_each_is_not_enough(world, comparison, monkeypatch, hits, helps):
    # Dice of .50 untouched: gains of .02, .02 and .30 are .11 +- .40, those of .10, .12 and .14 are .12 +- .05
    three = world.selection.select(range(12))
    cured = dict(zip(sorted(set(three.index["patient"])), hits, strict=True))

    def evaluated(interventions, segmenter, slices, *, batch_size):
        rows = [
            {"edit": edit, "row": row, "case": patient, "patient": patient, "volume": patient, "label": 1,
             "class": "core", "tp": cured[patient] if edit == "fix" else 50, "predicted": 100, "truth": 100,
             "hd95_mm": None}
            for edit in ("none", *(intervention.name for intervention in interventions))
            for row, patient in enumerate(slices.index["patient"])
        ]  # fmt: skip
        return Scores(pl.DataFrame(rows, schema=SCHEMA))

    monkeypatch.setattr(automatic, "evaluate_interventions", evaluated)
    verdict = choose_intervention(
        Lens(world.segmenter, world.dictionary), three, target="core", comparison=comparison, folds=3
    )
    assert (verdict.edit, verdict.improvement.n_patients) == ("fix", 3)
    assert verdict.improvement.value == pytest.approx(sum(hits) / 300 - 0.5)
    assert (verdict.intervention is not None) == helps
    assert "over 3 patients" in verdict.sentence


def test_nothing_is_judged_on_the_patients_that_it_was_chosen_on(segmenter, dictionary, selection, comparison):
    choose_intervention(
        Lens(segmenter, dictionary), selection, target="edema", comparison=without(comparison, "fix"), folds=2
    )
    patients = sorted(set(selection.index["patient"]))
    assert comparison.seen == [patients[1::2], patients[0::2]]


def test_masks_of_evaluation_patients_change_nothing(segmenter, dictionary, selection, evaluation):
    # the whole of it, on slices of which the selection patients are a part: other masks elsewhere, same verdict
    def whole(masks):
        images = torch.cat([selection.images(), evaluation.images()])
        index = pl.concat([selection.index, evaluation.index]).select("case", "patient")
        return SliceSet.from_tensors(
            images, masks, torch.ones(masks.shape, dtype=torch.bool), index,
            name="target", sequences=selection.sequences, labels=selection.labels,
        )  # fmt: skip

    def comparison(slices):
        names = ("latents", "logit_affine")
        return fitted_methods(Lens(segmenter, dictionary), slices, names, target="edema", steps=2)

    verdicts = []
    for elsewhere in (evaluation.masks(), torch.zeros_like(evaluation.masks())):
        slices = whole(torch.cat([selection.masks(), elsewhere]))
        chosen = slices.select(range(len(selection)))
        verdicts.append(
            choose_intervention(Lens(segmenter, dictionary), chosen, target="edema", comparison=comparison, folds=2)
        )
    assert verdicts[0].table.equals(verdicts[1].table)
    assert verdicts[0].improvement == verdicts[1].improvement
    images = evaluation.images([0])
    if verdicts[0].intervention is not None:
        one, other = (verdict.intervention.logits(segmenter, images) for verdict in verdicts)
        assert torch.equal(one, other)


def test_too_few_patients(segmenter, dictionary, selection, comparison):
    with pytest.raises(ValueError, match="5 folds need as many"):
        choose_intervention(Lens(segmenter, dictionary), selection, target="edema", comparison=comparison, folds=5)
