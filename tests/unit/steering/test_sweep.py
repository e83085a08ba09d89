import polars as pl
import pytest
import torch

from seglens.activations.hooks import activations
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.decision import Decision, most_likely
from seglens.segmenters.scoring import evaluate
from seglens.steering.baselines import drop_class, flip_logits
from seglens.steering.edits import LatentEdit, slice_change, steer, swap_source
from seglens.steering.sweep import alpha_grid, always, identity_edit, sweep, sweep_changes


def counts(scores, edit):
    rows = scores.table.filter(pl.col("edit") == edit).sort("row", "label")
    return rows.select("row", "patient", "class", "tp", "predicted", "truth").rows()


def test_every_edit_counts_as_a_full_pass_would(segmenter, dictionary, selection, make_edit):
    edits = [make_edit(dictionary, value=value) for value in (-1.0, 3.0)] + [
        None,
        identity_edit(Lens(segmenter, dictionary), replace=True),
    ]
    seen = []
    scores = sweep(
        Lens(segmenter, dictionary),
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
        with steer(Lens(segmenter, dictionary), edit):
            alone = evaluate(segmenter, selection, edit_name=edit.name, batch_size=5)
        assert counts(scores, edit.name) == counts(alone, edit.name)
        assert counts(scores, edit.name) != counts(scores, "none")
    assert seen == [(5, 16), (10, 16), (15, 16), (16, 16)]


def test_named_groups_of_edits_act_together(segmenter, dictionary, selection, make_edit):
    group = [make_edit(dictionary, (1,), "add", 2.0), make_edit(dictionary, (3,), "zero", 0.0)]
    scores = sweep(Lens(segmenter, dictionary), selection, {"both": group, "same": make_edit(dictionary, value=1.0)})
    with steer(Lens(segmenter, dictionary), *group):
        assert counts(scores, "both") == counts(evaluate(segmenter, selection, edit_name="both"), "both")
    assert counts(scores, "same") == counts(scores, "none")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_every_kind_of_edit_at_every_batch_size(segmenter, dictionary, selection, make_edit, batch_size):
    other = SparseAutoencoder(8, 12, k=2, seed=5)
    source = swap_source(dictionary, other, {1: 4, 3: 0, 5: 11})
    edits = {
        "zero": make_edit(dictionary, operation="zero", value=0.0),
        "add": make_edit(dictionary, operation="add", value=-0.5),
        "add where active": make_edit(dictionary, operation="add", value=2.0, where="active"),
        "clamp": make_edit(dictionary, operation="clamp", value=1.0),
        "swap": make_edit(dictionary, operation="swap", value=0.0),
        "replace": make_edit(dictionary, operation="add", value=1.0, mode="replace"),
        "group": [
            make_edit(dictionary, (1, 3), "add", 1.0),
            make_edit(dictionary, (5,), "swap", 0.0),
            make_edit(dictionary, (3, 9), "multiply", 2.0),
        ],
        "group in replace mode": [
            make_edit(dictionary, (1, 3), "multiply", 2.0, mode="replace"),
            make_edit(dictionary, (3,), "swap", 0.0, mode="replace"),
        ],
        "identities": [make_edit(dictionary, value=1.0), make_edit(dictionary, (), "zero", 0.0)],
        "nothing": None,
        "no edits": [],
    }
    scores = sweep(Lens(segmenter, dictionary), selection, edits, source=source, batch_size=batch_size)
    for name, edit in edits.items():
        group = [edit] if isinstance(edit, LatentEdit) else edit or []
        with steer(Lens(segmenter, dictionary), *group, source=source):
            alone = evaluate(segmenter, selection, edit_name=name, batch_size=batch_size)
        assert counts(scores, name) == counts(alone, name), name
    for name in ("identities", "nothing", "no edits"):
        assert counts(scores, name) == counts(scores, "none")


@pytest.mark.parametrize(
    ("architecture", "hookpoint"), [("segformer-b0", "stage2"), ("segformer-b0", "stage3"), ("unet", "encoder3")]
)
def test_logits_of_a_sweep_are_those_of_a_steered_pass_in_every_bit(architecture, hookpoint, make_edit, monkeypatch):
    labels = {0: "background", 1: "core", 2: "edema"}
    segmenter = build_segmenter(architecture, sequences=("T1", "FLAIR"), labels=labels, size=32, seed=0)
    images = torch.randn(5, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    slices = selection_of(images, labels)
    with torch.no_grad():
        grid = activations(segmenter, hookpoint, images).flatten(0, 3)
    dictionary = SparseAutoencoder(grid.shape[1], 40, k=4, hookpoint=hookpoint, segmenter_hash=segmenter.hash)
    dictionary.theta.fill_(float(dictionary.pre_activations(grid).quantile(0.9)))
    edits = alpha_grid(
        Lens(segmenter, dictionary),
        {"a": (0, 3, 7), "b": range(20)},
        {"multiply": (-1, 0, 0.5, 2.75), "add": (-1, 0.25)},
    )
    seen = []

    def kept(_decision, logits):
        seen.append(logits)
        return most_likely(logits)

    monkeypatch.setattr(Decision, "labels", kept)
    sweep(Lens(segmenter, dictionary), slices, edits, batch_size=3)
    expected = []
    for rows in ([0, 1, 2], [3, 4]):
        for group in ([], *([edit] for edit in edits.values())):
            with torch.no_grad(), steer(Lens(segmenter, dictionary), *group):
                expected.append(segmenter.logits(images[rows]))
    assert len(seen) == len(expected) == 2 * 13
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert len({tuple(logits.flatten().tolist()) for logits in seen[:13]}) == 13


def selection_of(images, labels):
    masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"c{number}" for number in range(len(images))]})
    return SliceSet.from_tensors(
        images, masks, masks == 0, index, name="made", sequences=("T1", "FLAIR"), labels=labels
    )


def test_identities_cost_nothing(segmenter, dictionary, selection, make_edit):
    passes = []
    segmenter.network.head.register_forward_pre_hook(lambda *_: passes.append(1))
    sweep(Lens(segmenter, dictionary), selection, {"a": make_edit(dictionary, value=2.0)}, batch_size=16)
    one = len(passes)
    passes.clear()
    edits = {"a": make_edit(dictionary, value=2.0), "b": make_edit(dictionary, value=1.0), "c": None}
    sweep(Lens(segmenter, dictionary), selection, edits, batch_size=16)
    assert len(passes) == one
    passes.clear()
    sweep_changes(segmenter, "here", selection, {"a": None, "b": always(lambda grid: grid * 2)}, batch_size=16)
    assert len(passes) == one


def test_a_grid_holds_every_alpha_of_every_set(segmenter, dictionary):
    lens = Lens(segmenter, dictionary)
    grid = alpha_grid(lens, {"first": (4, 1), "second": [7]}, {"multiply": (0, 2.5), "add": (-1,)})
    assert {name: (edit.latents, edit.operation, edit.value) for name, edit in grid.items()} == {
        "first multiply 0": ((1, 4), "multiply", 0.0),
        "first multiply 2.5": ((1, 4), "multiply", 2.5),
        "first add -1": ((1, 4), "add", -1.0),
        "second multiply 0": ((7,), "multiply", 0.0),
        "second multiply 2.5": ((7,), "multiply", 2.5),
        "second add -1": ((7,), "add", -1.0),
    }
    assert {(edit.hookpoint, edit.dictionary_hash) for edit in grid.values()} == {("here", dictionary.hash)}
    with pytest.raises(ValueError, match="'first add 1'"):
        alpha_grid(lens, {"first": (4,)}, {"add": (1, 1.0000001)})


def test_rules_and_passes_are_scored_on_the_untouched_network(segmenter, dictionary, selection):
    def flipped(images):
        return flip_logits(segmenter, images)

    scores = sweep(
        Lens(segmenter, dictionary),
        selection,
        [],
        rules={"drop": drop_class(2)},
        passes={"flip": flipped},
        batch_size=7,
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
        sweep(Lens(segmenter, dictionary), selection, {"drop": None}, rules={"drop": drop_class(1)})


def test_other_slices_or_other_dictionaries_are_refused(segmenter, dictionary, selection, make_edit):
    edit = make_edit(dictionary)
    dictionary.theta.fill_(0.3)
    with pytest.raises(ValueError, match="for dictionary"):
        sweep(Lens(segmenter, dictionary), selection, [edit])
