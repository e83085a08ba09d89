from dataclasses import replace

import polars as pl
import pytest
import torch
from tests.unit.segmenters.test_scoring import random_masks, slices_of

from seglens.segmenters.score_summary import CONVENTIONS, Score, ScoreSummary, dice_of_counts, summaries_of
from seglens.segmenters.scoring import Scores, score_predictions

CLASSES = ("edema", "enhancing", "core")


@pytest.fixture(scope="module")
def scores():
    masks = random_masks(3)
    edits = {"none": random_masks(2), "late": random_masks(9), "nothing": torch.zeros_like(masks)}
    return Scores.merged([score_predictions(one, slices_of(masks), edit_name=name) for name, one in edits.items()])


def test_every_edit_is_summed_up_as_if_it_were_alone(scores):
    together = summaries_of(scores.table)
    assert list(together) == ["none", "late", "nothing"]
    for edit, summary in together.items():
        assert summary == scores.summary(edit) == scores.summaries()[edit]
        for name in (*CLASSES, "foreground"):
            for convention in CONVENTIONS:
                expected = Score(getattr(summary, convention)[name], getattr(summary.n, convention)[name])
                assert scores.dice(name, convention.removeprefix("dice_"), edit=edit) == expected
    assert together["none"] != together["late"]


def test_dice_is_that_of_a_loop_over_slices(scores):
    for edit in ("none", "late"):
        rows = [row for row in scores.table.iter_rows(named=True) if row["edit"] == edit and row["class"] == "edema"]
        both = [row["predicted"] + row["truth"] for row in rows]
        assert scores.dice("edema", edit=edit).value == pytest.approx(2 * sum(r["tp"] for r in rows) / sum(both))
        present = [2 * row["tp"] / both for row, both in zip(rows, both, strict=True) if row["truth"]]
        assert scores.dice("edema", "slice_present", edit=edit).value == pytest.approx(sum(present) / len(present))
        assert scores.dice("edema", "slice_present", edit=edit).n == len(present)


def test_pooled_by_edit_is_the_summary_of_each_with_0_where_it_is_undefined(scores):
    for name in (*CLASSES, "foreground"):
        expected = {edit: summary.dice(name).value or 0.0 for edit, summary in scores.summaries().items()}
        assert scores.pooled_by_edit(name) == pytest.approx(expected)
    assert scores.pooled_by_edit("core") == {"none": 0.0, "late": 0.0, "nothing": 0.0}


def test_slice_dice_is_that_of_a_loop_over_slices(scores):
    def dice(row):
        both = row["predicted"] + row["truth"]
        return 2 * row["tp"] / both if both else 1.0

    lesions = scores.table.filter(pl.col("label") > 0)
    for convention in ("slice_present", "slice_empty1"):
        found = {(edit, row): value for edit, row, value in scores.slice_dice(convention=convention).iter_rows()}
        expected = {}
        for edit, row in lesions.select("edit", "row").unique().iter_rows():
            classes = lesions.filter(edit=edit, row=row).to_dicts()
            counted = [dice(one) for one in classes if one["truth"] or convention == "slice_empty1"]
            if counted:
                expected[edit, row] = sum(counted) / len(counted)
        assert found == pytest.approx(expected)
    edema = {(edit, row): value for edit, row, value in scores.slice_dice("edema").iter_rows()}
    rows = lesions.filter(pl.col("class") == "edema").iter_rows(named=True)
    assert edema == pytest.approx({(row["edit"], row["row"]): dice(row) for row in rows})


def test_counts_give_nan_where_a_class_is_nowhere():
    dice = dice_of_counts(torch.tensor([[1, 2, 4], [0, 0, 0], [0, 3, 0]]))
    assert dice[0] == pytest.approx(2 / 6)
    assert dice[1].isnan()
    assert dice[2] == 0
    assert dice.dtype == torch.float64


def test_a_class_or_convention_that_there_is_not_is_refused(scores):
    with pytest.raises(ValueError, match="no class 'brain'; there are edema, enhancing, core, foreground"):
        scores.dice("brain")
    with pytest.raises(ValueError, match="no figure 'dice_mean' by class; there are dice_pooled, dice_sampled"):
        scores.summary().score("dice_mean", "edema")


def test_a_score_is_written_with_its_n(scores):
    assert str(Score(0.5, 12)) == "0.5000 (n 12)"
    assert str(scores.dice("core")) == "undefined (n 0)"


def test_the_mean_of_summaries_leaves_out_what_is_undefined(scores):
    first, second = scores.summary(), scores.summary("late")
    holes = replace(second, dice_pooled=second.dice_pooled | {"edema": None}, mean_dice_with_background=None)
    mean = ScoreSummary.mean([first, second, holes])
    assert mean.dice_pooled["edema"] == pytest.approx((first.dice_pooled["edema"] + second.dice_pooled["edema"]) / 2)
    assert mean.dice_pooled["core"] is None
    assert mean.missed["edema"] == pytest.approx((first.missed["edema"] + 2 * second.missed["edema"]) / 3)
    assert mean.mean_dice_with_background == pytest.approx(
        (first.mean_dice_with_background + second.mean_dice_with_background) / 2
    )
    assert mean.n == first.n
