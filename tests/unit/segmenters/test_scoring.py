from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.segmenters.decision import Decision
from seglens.segmenters.score_summary import CONVENTIONS
from seglens.segmenters.scoring import (
    SCHEMA,
    Scores,
    count_scores,
    evaluate,
    pooled_dice,
    predict_slices,
    score_predictions,
    scores_from_counts,
)
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "edema", 2: "enhancing", 3: "core"}


def slices_of(masks, *, volumes=None, spacing=1.0, labels=LABELS):
    n = len(masks)
    index = pl.DataFrame(
        {
            "case": [f"case{row}" for row in range(n)],
            "volume": volumes or [f"v{row // 3}" for row in range(n)],
            "spacing_row_mm": [spacing] * n,
            "spacing_column_mm": [spacing and 2.0 * spacing] * n,
        }
    )
    images = masks[:, None].float()
    return SliceSet.from_tensors(images, masks, masks >= 0, index, name="toy", sequences=("T1",), labels=labels)


def random_masks(seed, n=9, size=12, n_classes=4, depth=1):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, n_classes, (n, depth, size, size), generator=generator, dtype=torch.uint8)
    masks[torch.rand(n, generator=generator) < 0.3] = 0
    masks[masks == 3] = 0  # class 3 is nowhere
    return masks


def sets(mask, label):
    return {tuple(place) for place in (mask == label).nonzero().tolist()}


def dice_of(predicted, truth):
    return 2 * len(predicted & truth) / (len(predicted) + len(truth))


@pytest.mark.parametrize("depth", [1, 3])
def test_counts_are_those_of_sets(depth):
    predictions, masks = random_masks(0, depth=depth), random_masks(1, depth=depth)
    counts = count_scores(predictions, masks, LABELS)
    assert counts.shape == (9, 4, 3)
    for row in range(9):
        for label in LABELS:
            predicted, truth = sets(predictions[row], label), sets(masks[row], label)
            assert counts[row, label].tolist() == [len(predicted & truth), len(predicted), len(truth)]


def test_every_convention_is_that_of_sets():
    predictions, masks = random_masks(2), random_masks(3)
    summary = score_predictions(predictions, slices_of(masks), batch_size=4).summary()
    for label, name in list(LABELS.items())[1:3]:
        predicted = [sets(one, label) for one in predictions]
        truth = [sets(one, label) for one in masks]
        pairs = list(zip(predicted, truth, strict=True))
        overlap = sum(len(a & b) for a, b in pairs)
        n_predicted, n_truth = sum(map(len, predicted)), sum(map(len, truth))
        assert summary.dice_pooled[name] == pytest.approx(2 * overlap / (n_predicted + n_truth))
        assert summary.precision[name] == pytest.approx(overlap / n_predicted)
        assert summary.recall[name] == pytest.approx(overlap / n_truth)

        present = [dice_of(a, b) for a, b in pairs if b]
        assert summary.dice_slice_present[name] == pytest.approx(sum(present) / len(present))
        assert summary.n.dice_slice_present[name] == len(present)
        empty1 = [dice_of(a, b) if a or b else 1.0 for a, b in pairs]
        assert summary.dice_slice_empty1[name] == pytest.approx(sum(empty1) / len(empty1))
        assert summary.n.dice_slice_empty1[name] == summary.n.dice_pooled[name] == 9

        volumes = []
        for start in (0, 3, 6):
            whole = [
                {(row, *place) for row in range(start, start + 3) for place in part[row]} for part in (predicted, truth)
            ]
            volumes += [dice_of(*whole)] if whole[1] else []
        assert summary.dice_sampled[name] == pytest.approx(sum(volumes) / len(volumes))
        assert summary.n.dice_sampled[name] == len(volumes)
        assert summary.missed[name] == sum(bool(b) and not a for a, b in pairs)
        assert summary.false_alarms[name] == sum(bool(a) and not b for a, b in pairs)


def test_a_class_that_is_nowhere_is_none_with_n_zero_and_is_not_in_the_mean():
    predictions, masks = random_masks(2), random_masks(3)
    summary = score_predictions(predictions, slices_of(masks)).summary()
    for figure in ("dice_pooled", "dice_sampled", "dice_slice_present", "precision", "recall", "hd95_mm"):
        assert getattr(summary, figure)["core"] is None
        assert getattr(summary.n, figure)["core"] == 0
    assert (summary.dice_slice_empty1["core"], summary.n.dice_slice_empty1["core"]) == (1.0, 9)
    dice = summary.dice_pooled
    assert dice["foreground"] == pytest.approx((dice["edema"] + dice["enhancing"]) / 2)
    assert summary.n.dice_pooled["foreground"] == 2
    assert "background" not in dice
    assert summary.n.mean_dice_with_background == 3


def test_dropping_a_class_pays_in_the_empty1_convention_only():
    masks = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    masks[0, 0, :2] = 1
    blurred = masks.clone()
    blurred[1:6, 0, 0, 0] = 1  # five slices with a false pixel
    kept = score_predictions(blurred, slices_of(masks)).summary()
    dropped = score_predictions(torch.zeros_like(masks), slices_of(masks)).summary()
    assert dropped.dice_slice_empty1["edema"] > kept.dice_slice_empty1["edema"]
    for convention in ("dice_pooled", "dice_sampled", "dice_slice_present"):
        assert getattr(dropped, convention)["edema"] == 0.0 < getattr(kept, convention)["edema"]
    assert dropped.missed["edema"] == 1


def test_mean_dice_with_background():
    predictions, masks = random_masks(4), random_masks(5)
    summary = score_predictions(predictions, slices_of(masks)).summary()
    background = 2 * ((predictions == 0) & (masks == 0)).sum() / ((predictions == 0).sum() + (masks == 0).sum())
    dice = summary.dice_pooled
    expected = (float(background) + dice["edema"] + dice["enhancing"]) / 3
    assert summary.mean_dice_with_background == pytest.approx(expected)


def test_table_has_the_declared_columns_and_edits_can_be_merged():
    masks = random_masks(6)
    scores = Scores.merged([score_predictions(masks, slices_of(masks), edit_name=name) for name in ("none", "zero")])
    assert dict(scores.table.schema) == dict(SCHEMA)
    assert len(scores.table) == 2 * 9 * 4
    assert scores.summary("zero").dice_pooled["edema"] == 1.0
    assert scores.table["hd95_mm"].null_count() == len(scores.table)
    with pytest.raises(ValueError, match=r"no scores of the edit 'one'; there are \['none', 'zero'\]"):
        scores.summary("one")


def test_pooled_dice_is_that_of_the_summary():
    predictions, masks = random_masks(2), random_masks(3)
    slices = slices_of(masks)
    counts = count_scores(predictions, masks, LABELS)
    assert pooled_dice(counts, LABELS) == pytest.approx(scores_from_counts(counts, slices).summary().dice_pooled)
    assert pooled_dice(torch.zeros(1, 4, 3, dtype=torch.int64), LABELS)["foreground"] is None


def test_without_a_spacing_there_is_no_distance_in_mm():
    masks = random_masks(2)
    summary = score_predictions(masks, slices_of(masks, spacing=None), with_hd95=True).summary()
    assert summary.hd95_mm["edema"] is None
    assert summary.n.hd95_mm["edema"] == 0
    assert summary.dice_pooled["edema"] == 1.0


def test_hd95_uses_the_spacing_and_counts_what_is_missed():
    masks = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    masks[0, 0, 2:6, 2:6] = 1
    masks[1, 0, 2:6, 2:6] = 1
    predictions = torch.zeros_like(masks)
    predictions[0, 0, 2:6, 5:9] = 1  # three columns away
    predictions[2, 0, 0, 0] = 1
    one, two = (
        score_predictions(predictions, slices_of(masks, spacing=mm), with_hd95=True).summary() for mm in (1.0, 2.0)
    )
    assert one.hd95_mm["edema"] == 6.0
    assert two.hd95_mm["edema"] == 12.0
    assert (one.n.hd95_mm["edema"], one.missed["edema"], one.false_alarms["edema"]) == (1, 1, 1)


class FromImage(nn.Module):
    """Predicts the label that the image shows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0).view(1, 4, 1, 1))

    def forward(self, images):
        return -(images - self.weight).square()


def test_evaluate_predicts_in_batches_and_reports():
    masks = random_masks(7)
    slices, seen = slices_of(masks), []
    segmenter = Segmenter.wrap(FromImage(), sequences=("T1",), labels=LABELS, hookpoints={}, size=12)
    scores = evaluate(
        segmenter,
        slices,
        batch_size=4,
        hd95=True,
        device="cpu",
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    assert torch.equal(predict_slices(segmenter, slices, batch_size=2), masks)
    assert seen == [(4, 9), (8, 9), (9, 9)]
    summary = scores.summary()
    assert [getattr(summary, name)["edema"] for name in CONVENTIONS] == [1.0] * 4
    assert summary.hd95_mm["edema"] == 0.0


def test_refusals():
    masks = random_masks(8)
    slices = slices_of(masks)
    segmenter = Segmenter.wrap(FromImage(), sequences=("T1",), labels=LABELS, hookpoints={}, size=12)
    with pytest.raises(ValueError, match="its labels are"):
        evaluate(segmenter, slices_of(masks, labels={0: "background", 1: "tumour", 2: "other"}))
    for wrong in (masks[:3], masks[:, :, :4]):
        with pytest.raises(ValueError, match=r"predictions are .*'toy' needs \(9, 1, 12, 12\)"):
            score_predictions(wrong, slices)
    with pytest.raises((ValueError, TypeError)):
        count_scores(masks[:1], masks, LABELS)
    with pytest.raises(ValueError, match="masks hold the value 2, labels are"):
        count_scores(torch.zeros_like(masks), masks, {0: "background", 1: "tumour"})


def test_scores_show_every_convention():
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    masks[:, :, 2:5] = 1
    slices = slices_of(masks, labels={0: "background", 1: "lesion"})
    page = score_predictions(masks, slices)._repr_html_()
    assert "<td>&quot;lesion&quot;</td><td>1.0</td><td>1.0</td><td>1.0</td><td>1.0</td>" in page


NESTED = Decision(True, (), ((1, 2, 3), (2, 3), (3,)))
"""Of three regions, each inside of the one before."""


def test_counts_of_regions_are_those_of_sets():
    predictions, masks = random_masks(0), random_masks(1)
    counts = count_scores(predictions, masks, LABELS, NESTED)
    for label, members in enumerate([{0}, {1, 2, 3}, {2, 3}, {3}]):
        said, true = (torch.isin(one, torch.tensor(sorted(members))) for one in (predictions, masks))
        assert torch.equal(NESTED.belongs(masks, label), true)
        wanted = torch.stack([(said & true).sum((1, 2, 3)), said.sum((1, 2, 3)), true.sum((1, 2, 3))], 1)
        assert torch.equal(counts[:, label], wanted)
    plain = Decision(True)  # regions of which nothing is known are those labels alone
    assert torch.equal(count_scores(predictions, masks, LABELS, plain), count_scores(predictions, masks, LABELS))


def test_a_region_is_not_worse_for_what_lies_on_it():
    """The whole tumour is found to the pixel and the core is not: by classes both were wrong."""
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    masks[..., 2:6, 2:6] = 1
    masks[..., 3:5, 3:5] = 2
    slices = slices_of(masks, labels={0: "background", 1: "whole", 2: "core"})

    class Said(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            logits = torch.full((len(images), 2, 8, 8), -2.0)
            logits[:, 0, 2:6, 2:6] = 2.0
            logits[:, 1, 2:6, 2:6] = 1.0
            return logits[:, [1, 0]] + self.shift

    labels = slices.labels
    segmenter = Segmenter.wrap(Said(), sequences=slices.sequences, labels=labels, hookpoints={}, size=8)
    regions = replace(segmenter, decision=Decision(True, (1, 0), ((1, 2), (2,))))
    scores = evaluate(regions, slices)
    assert scores.dice("whole").value == 1.0
    assert scores.dice("core").value == pytest.approx(2 * 4 / (4 + 16))
    apart = evaluate(replace(regions, decision=Decision(True, (1, 0))), slices)
    assert apart.dice("whole").value == 0.0
