import polars as pl
import pytest
import torch

from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import most_likely
from seglens.steering.baselines import drop_class, flip_logits
from seglens.steering.edits import slice_change, steer
from seglens.steering.sweep import identity_edit, part_of, sweep, sweep_changes


def counts(scores, edit):
    rows = scores.table.filter(pl.col("edit") == edit).sort("row", "label")
    return rows.select("row", "patient", "class", "tp", "predicted", "truth").rows()


def test_every_edit_counts_as_a_full_pass_would(segmenter, dictionary, selection, make_edit):
    edits = [make_edit(dictionary, value=value) for value in (-1.0, 3.0)] + [
        None,
        identity_edit(dictionary, replace=True),
    ]
    seen = []
    scores = sweep(
        segmenter,
        dictionary,
        selection,
        edits,
        batch_size=5,
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    assert scores.table["edit"].unique(maintain_order=True).to_list() == [
        "none",
        edits[0].name,
        edits[1].name,
        "reconstruct only",
    ]
    assert counts(scores, "none") == counts(evaluate(segmenter, selection), "none")
    for edit in (edits[0], edits[1], edits[3]):
        with steer(segmenter, dictionary, [edit]):
            alone = evaluate(segmenter, selection, edit_name=edit.name, batch_size=5)
        assert counts(scores, edit.name) == counts(alone, edit.name)
        assert counts(scores, edit.name) != counts(scores, "none")
    assert seen == [(5, 16), (10, 16), (15, 16), (16, 16)]


def test_named_groups_of_edits_act_together(segmenter, dictionary, selection, make_edit):
    group = [make_edit(dictionary, (1,), "add", 2.0), make_edit(dictionary, (3,), "zero", 0.0)]
    scores = sweep(segmenter, dictionary, selection, {"both": group, "same": make_edit(dictionary, value=1.0)})
    with steer(segmenter, dictionary, group):
        assert counts(scores, "both") == counts(evaluate(segmenter, selection, edit_name="both"), "both")
    assert counts(scores, "same") == counts(scores, "none")


def test_rules_and_passes_are_scored_on_the_untouched_network(segmenter, dictionary, selection):
    def flipped(images):
        return flip_logits(segmenter, images)

    scores = sweep(
        segmenter, dictionary, selection, [], rules={"drop": drop_class(2)}, passes={"flip": flipped}, batch_size=7
    )
    dropped = scores.table.filter((pl.col("edit") == "drop") & (pl.col("class") == "edema"))
    assert dropped["predicted"].sum() == 0
    assert dropped["truth"].sum() > 0
    with torch.no_grad():
        predicted = most_likely(flipped(selection.images()))
    tp = ((predicted == 1) & (selection.masks() == 1)).sum()
    flips = scores.table.filter((pl.col("edit") == "flip") & (pl.col("class") == "core"))
    assert flips["tp"].sum() == int(tp)


def test_changes_know_their_rows(segmenter, dictionary, selection):
    latents = torch.arange(len(selection))[:, None] % dictionary.n_latents
    scores = sweep_changes(
        segmenter,
        "here",
        selection,
        {"own": lambda rows: slice_change(dictionary, latents[list(rows)], 4.0)},
        batch_size=3,
    )
    whole = sweep_changes(
        segmenter, "here", selection, {"own": lambda _rows: slice_change(dictionary, latents, 4.0)}, batch_size=16
    )
    assert counts(scores, "own") == counts(whole, "own")


def test_a_name_given_twice_is_refused(segmenter, dictionary, selection):
    with pytest.raises(ValueError, match="different names"):
        sweep(segmenter, dictionary, selection, {"drop": None}, rules={"drop": drop_class(1)})


def test_other_slices_or_other_dictionaries_are_refused(segmenter, dictionary, selection, make_edit):
    edit = make_edit(dictionary)
    dictionary.theta.fill_(0.3)
    with pytest.raises(ValueError, match="for dictionary"):
        sweep(segmenter, dictionary, selection, [edit])


def test_progress_of_a_step():
    seen = []
    part_of(lambda done, total, **figures: seen.append((done, total, figures)), 10, 40)(5, 7, loss=0.5)
    assert seen == [(15, 40, {"loss": 0.5})]
