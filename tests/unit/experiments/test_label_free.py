import polars as pl
import pytest
import torch

from seglens.cohorts.slice_set import SliceSet
from seglens.experiments.label_free_policies import BEST_A_SLICE, Entry, best_of, evaluated, proxy_for, without_masks
from seglens.experiments.label_free_tables import (
    EntryRecord,
    best_rows,
    headlines,
    kept_rows,
    paragraphs,
    policy_rows,
)
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.steering.interventions import Intervention
from seglens.steering.style_transfer import brains_of

LABELS = {0: "background", 1: "tumour"}


def scores_of(hits):
    """Four patients of one slice: 100 true and 100 predicted pixels each; ``hits`` is edit to hits, so Dice * 100.

    Hits of an edit are one number for all patients, or one a patient.
    """
    rows = [
        {"edit": edit, "row": patient, "case": f"p{patient}", "patient": f"p{patient}", "volume": f"p{patient}",
         "label": label, "class": LABELS[label], "tp": hit if isinstance(hit, int) else hit[patient],
         "predicted": 100, "truth": 100, "hd95_mm": None}
        for edit, hit in hits.items()
        for patient in range(4)
        for label in LABELS
    ]  # fmt: skip
    return Scores(pl.DataFrame(rows, schema=SCHEMA))


def entry(name, side, interventions, oracles=(), chosen=""):
    return EntryRecord(name, side, 3, tuple(interventions), tuple(oracles), chosen)


@pytest.fixture
def known():
    scores = scores_of({"none": 40, "a0": 44, "a1": 48, "b": 30, "best": 48, "small": 40})
    entries = [
        entry("a", "edit", ["a0", "a1"], ["oracle", "little oracle"], "something"),
        entry("b", "edit", ["b"], ["oracle"]),
        entry("r", "baseline", ["best"], ["oracle"]),
        entry("oracle", "oracle", ["best"]),
        entry("little oracle", "oracle", ["small"]),
    ]
    return scores, entries


def test_the_share_kept_of_an_oracles_gain(known):
    rows = kept_rows(*known, transfer="a on b")
    by = {(row["policy"], row["oracle"]): row for row in rows.iter_rows(named=True)}
    assert by["a", "oracle"]["share kept"] == pytest.approx(0.75)
    assert by["a", "oracle"]["low"] == pytest.approx(0.75)  # all patients are alike
    assert by["b", "oracle"]["share kept"] == pytest.approx(-1.25)
    assert by["r", "oracle"]["share kept"] == pytest.approx(1.0)
    assert by["a", "little oracle"]["share kept"] is None
    assert by["a", "little oracle"]["high"] is None
    assert by["a", "oracle"]["oracle's gain"] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("oracle_hits", "has_interval"),
    [
        ((52, 52, 52, 20), False),  # the oracle loses in each draw that has the last one twice: 1 of 4
        ((52, 52, 52, 44), True),
    ],
)
def test_a_share_has_no_interval_where_the_oracle_gains_nothing_in_many_draws(oracle_hits, has_interval):
    scores = scores_of({"none": 40, "a": 44, "best": oracle_hits})
    rows = kept_rows(scores, [entry("a", "edit", ["a"], ["oracle"]), entry("oracle", "oracle", ["best"])], "one")
    row = rows.row(0, named=True)
    assert row["share kept"] == pytest.approx(16 / (sum(oracle_hits) - 160))
    assert (row["low"] is not None, row["high"] is not None) == (has_interval, has_interval)


def test_every_convention_has_its_gain(known):
    rows = policy_rows(*known, transfer="a on b", label="tumour")
    assert set(rows["figure"]) == {"dice_pooled", "dice_sampled", "dice_slice_present", "dice_slice_empty1"}
    one = rows.filter(
        (pl.col("policy") == "a") & (pl.col("class") == "foreground") & (pl.col("figure") == "dice_pooled")
    )
    assert one.select("before", "after", "gain", "seeds", "chosen").row(0) == pytest.approx(
        (0.40, 0.46, 0.06, 2, "something")
    )


def test_headlines_name_the_edit_that_keeps_most_and_never_a_baseline(known):
    scores, entries = known
    kept = pl.concat([kept_rows(scores, entries, transfer) for transfer in ("one", "two")])
    assert best_rows(kept).select("oracle", "policy", "transfers").rows() == [("oracle", "a", 2)]
    assert headlines(kept) == {
        "share of oracle kept by the best of 2 edits over 2 of 2 transfers: a, mean": pytest.approx(0.75),
        "share of oracle kept by the best of 2 edits over 2 of 2 transfers: a, smallest": pytest.approx(0.75),
    }
    words = " ".join(paragraphs(policy_rows(scores, entries, "one", "tumour"), kept))
    assert "reaches the aim of 70%" in words
    assert "keeps most of 2 edits: 75% of the gain on average over 2 of 2 transfers" in words


@pytest.fixture(scope="module")
def world():
    segmenter = build_segmenter("segformer-b0", sequences=("FLAIR",), labels=LABELS, size=32, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 1, 32, 32, generator=generator)
    masks = torch.zeros(8, 1, 32, 32, dtype=torch.uint8)
    masks[:7, :, 8:24, 8:24] = 1
    index = pl.DataFrame({"case": [f"p{number // 2}" for number in range(8)]})
    slices = SliceSet.from_tensors(
        images, masks, brains_of(images), index, name="squares", sequences=("FLAIR",), labels=LABELS
    )
    return segmenter, slices


def constant(name, label):
    def predict(batch):
        logits = torch.zeros_like(batch.logits)
        logits[:, label] = 1
        return logits

    return Intervention(name, 1, "label_free", predict)


def test_oracles_are_the_best_of_their_families(world):
    segmenter, slices = world
    entries = [
        Entry("policy", "edit", [constant("policy", 0)], (best_of("grid of edits"),)),
        Entry("all tumour", "candidate", [constant("all tumour", 1)], family="grid of edits"),
        Entry("nothing", "candidate", [constant("nothing", 0)], family="grid of edits"),
    ]
    scores, kept = evaluated(segmenter, entries, slices)
    oracle = {one.name: one for one in kept if one.side == "oracle"}
    untouched = scores.summary().dice_pooled["foreground"] or 0.0
    all_tumour = scores.summary("all tumour").dice_pooled["foreground"]
    assert all_tumour == pytest.approx(2 * 7 * 256 / (7 * 256 + 8 * 1024))
    best = "all tumour" if all_tumour > untouched else "none"
    assert oracle[best_of("grid of edits")].chosen == best
    per_slice = scores.table.filter((pl.col("edit") == BEST_A_SLICE) & (pl.col("label") == 1)).sort("row")
    assert per_slice["row"].to_list() == list(range(8))
    expected = [
        max(2 * 256 / 1280, float(dice))
        for dice in scores.slice_dice(scores.table.filter(label=1)["class"][0]).filter(edit="none")["dice"][:7]
    ]
    found = 2 * per_slice["tp"] / (per_slice["predicted"] + per_slice["truth"])
    assert found[:7].to_list() == pytest.approx(expected)
    assert per_slice["predicted"][7] == scores.table.filter(edit="none", row=7, label=1)["predicted"][0]
    assert [one.name for one in kept if one.side == "edit"] == ["policy"]
    assert not [one for one in kept if one.side == "candidate"]


def test_masks_of_the_target_do_not_enter_the_stand_in(world):
    segmenter, slices = world
    garbage = torch.randint(0, 2, (8, 1, 32, 32), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    other = SliceSet.from_tensors(
        slices.images() * 2,
        garbage,
        slices.brains(),
        slices.index.drop("row", "origin"),
        name="target",
        sequences=("FLAIR",),
        labels=LABELS,
    )
    same = SliceSet.from_tensors(
        slices.images() * 2,
        slices.masks(),
        slices.brains(),
        slices.index.drop("row", "origin"),
        name="target",
        sequences=("FLAIR",),
        labels=LABELS,
    )
    made = [proxy_for(segmenter, slices, target, seed=0) for target in (other, same)]
    assert torch.equal(made[0].images(), made[1].images())
    assert torch.equal(made[0].masks(), slices.masks())
    assert not torch.equal(made[0].images(), slices.images())


def test_policies_get_empty_masks(world):
    _, slices = world
    blank = without_masks(slices)
    assert torch.equal(blank.images(), slices.images())
    assert blank.index["patient"].to_list() == slices.index["patient"].to_list()
    assert int(blank.masks().max()) == 0
