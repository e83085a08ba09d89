"""Models, dictionaries and edits that do not fit the data or each other."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from tests.toys import LABELS, TINY_SEGFORMER, slices_of, store_of, tiny_segmenter
from torch import nn

from seglens.activations.effects import hookpoint_effects
from seglens.activations.extraction import extract
from seglens.activations.hooks import activations, capture, edit
from seglens.activations.store import ActivationStore
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.batch_topk import BatchTopK
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.quality import lens_quality
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.methods import alignment_methods
from seglens.diffing.sharing import align
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.semantics.atlas import describe
from seglens.steering.edits import LatentEdit, steer


@pytest.fixture
def segmenter():
    return tiny_segmenter()


@pytest.fixture
def dictionary(segmenter):
    dictionary = SparseAutoencoder(8, 16, k=2, hookpoint="stage1", segmenter_hash=segmenter.hash)
    dictionary.theta.fill_(0.1)
    return dictionary


def counted(segmenter):
    """Forward passes so far."""
    calls = []
    segmenter.network.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


OTHERS = {
    "order": {"sequences": ("T2", "T1")},
    "channels": {"sequences": ("T1",)},
    "labels": {"sequences": ("T1", "T2"), "labels": {0: "background", 1: "tumour"}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_row_28_data_of_other_channels_or_classes(name, dictionary):
    """Data whose sequences, their order, or labels are not the model's is refused before the first batch."""
    segmenter, slices = tiny_segmenter(sequences=("T1", "T2")), slices_of(4, **OTHERS[name])
    dictionary.segmenter_hash = segmenter.hash
    calls = counted(segmenter)
    asks_for_masks = {
        "evaluate": lambda: evaluate(segmenter, slices),
        "effects": lambda: hookpoint_effects(segmenter, slices),
    }
    asks_for_images = {
        "extract": lambda: extract(segmenter, slices, "stage1"),
        "describe": lambda: describe(Lens(segmenter, dictionary), slices, top_k=1),
    }
    for do in (asks_for_masks if name == "labels" else asks_for_masks | asks_for_images).values():
        with pytest.raises(
            ValueError, match=r"'toy' do not fit: its (sequences|labels) are .*, the segmenter's .* Prepare"
        ):
            do()
    assert calls == []


def test_row_28_training_from_other_channels():
    """A start of other sequences gives the layers that do not fit fresh weights, and of another kind is refused."""
    settings = TrainingSettings(steps=1, batch_size=2, architecture_settings=TINY_SEGFORMER)
    wrapped = Segmenter.wrap(nn.Conv2d(1, 3, 1), sequences=("T1",), labels=LABELS, hookpoints={}, size=32)
    with pytest.raises(ValueError, match="init_from wraps a network of 3 classes, 'toy' has 2"):
        train_segmenter(slices_of(2, labels={0: "background", 1: "tumour"}), init_from=wrapped, settings=settings)
    with pytest.raises(ValueError, match="'toy' do not fit: its sequences are T2"):
        train_segmenter(slices_of(2, ("T2",)), init_from=wrapped, settings=settings)


def test_row_28_network_that_is_not_what_it_says(segmenter):
    """A network with other channels or classes than named stops at its first call with both numbers."""
    with pytest.raises(ValueError, match="images have 2 channels; this segmenter expects 1: T1"):
        segmenter.logits(torch.zeros(1, 2, 1, 32, 32))
    wrong = replace(segmenter, labels=LABELS | {3: "necrosis"})
    with pytest.raises(ValueError, match="gives 3 classes, labels name 4; give one label for each"):
        wrong.logits(torch.zeros(1, 1, 1, 32, 32))


def test_row_29_unknown_hookpoint(segmenter, dictionary):
    """An unknown hookpoint is refused with the nearest names, before anything is computed."""
    calls = counted(segmenter)
    asks = {
        "extract": lambda: extract(segmenter, slices_of(2), "stage_1"),
        "activations": lambda: activations(segmenter, "stage_1", torch.zeros(1, 1, 1, 32, 32)),
        "capture": lambda: capture(segmenter, "stage_1").__enter__(),
        "edit": lambda: edit(segmenter, "stage_1", lambda grid: grid).__enter__(),
    }
    for ask in asks.values():
        with pytest.raises(
            ValueError, match=r"no hookpoint 'stage_1'; did you mean 'stage1'.* has stage1, stage2, stage3"
        ):
            ask()
    with pytest.raises(
        ValueError, match=r"the network has no module 'segformer.stagse.0'; near it are segformer.stages"
    ):
        replace(segmenter, hookpoints={"a": Hookpoint("segformer.stagse.0")})
    assert calls == []


class Several(nn.Module):
    """Returns what it is told to make of an activation [B 4 8 8]."""

    def __init__(self, make):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.inner = nn.Identity()
        self.make = make
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, images):
        made = self.inner(self.make(self.first(images)))
        while isinstance(made, tuple | list):
            made = made[-1]
        if made.ndim == 3:
            made = made.transpose(1, 2).unflatten(2, (8, 8))
        return self.last(made if made.shape[1] == 4 else made.permute(0, 3, 1, 2))


MADE = {
    "tuple": (lambda h: (None, h), Hookpoint("inner", item=1), Hookpoint("inner")),
    "list": (lambda h: [h], Hookpoint("inner", item=-1), Hookpoint("inner", item=3)),
    "channels last": (lambda h: h.permute(0, 2, 3, 1), Hookpoint("inner", "BHWC"), Hookpoint("inner", "BNC")),
    "tokens": (lambda h: h.flatten(2).transpose(1, 2), Hookpoint("inner", "BNC"), Hookpoint("inner", "BCHW")),
}


@pytest.mark.parametrize("name", MADE)
def test_row_30_tuples_and_channels_last(name):
    """A module that returns a tuple, or channels last, is read and edited by its declared layout, else refused."""
    torch.manual_seed(0)
    make, right, wrong = MADE[name]
    network, images = Several(make), torch.randn(2, 1, 1, 8, 8)

    def segmenter(place):
        return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"h": place}, size=8)

    with torch.no_grad():
        plain = segmenter(right)
        assert torch.equal(activations(plain, "h", images), network.first(images[:, :, 0]).permute(0, 2, 3, 1)[:, None])
        with edit(plain, "h", lambda grid: grid * 2):
            by_hand = network.last(2 * network.first(images[:, :, 0]))
            assert torch.allclose(plain.logits(images), by_hand[:, :, None], atol=1e-6)
        with pytest.raises(
            ValueError, match=r"Hookpoint\(item=|declare its layout|declares item 3, but 'inner' returns a l"
        ):
            activations(segmenter(wrong), "h", images)


def test_row_31_non_finite_activations(tmp_path):
    """Activations that are not finite stop the extraction; the slices are named and nothing is stored."""
    slices = slices_of(6)
    images = slices.images().clone()
    images[[1, 4], 0, 0, 3, 3] = torch.tensor([math.nan, math.inf])
    index = pl.DataFrame({"case": [f"p{row}" for row in range(6)], "position": list(range(10, 16))})
    bad = SliceSet.from_tensors(
        images, slices.masks(), slices.brains(), index, name="toy", sequences=("T1",), labels=LABELS
    )
    message = r"activations at 'stage1' are not finite as float32 in 2 slices: p1 slice 11, p4 slice 14; check these"
    for folder in (tmp_path / "store", None):
        with pytest.raises(ValueError, match=message):
            extract(tiny_segmenter(), bad, "stage1", folder=folder, batch_size=2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="activations are not finite; find the slice"):
        ActivationStore.from_grids(torch.full((1, 2, 2, 4), math.nan), hookpoint="h", segmenter_hash="", slices_hash="")


@pytest.mark.parametrize("k", [0, -1, 33, 10**9])
def test_row_32_k_out_of_range(k):
    """k = 0 or k > m is refused with the legal range, by the settings, the dictionary and the encoder."""
    with pytest.raises(ValueError, match=rf"k is {k}; it must be"):
        SparseAutoencoder(8, 32, k=k)
    with pytest.raises(ValueError, match=rf"k is {k}; it must be"):
        fit_dictionary(store_of(2), k=k, settings=FitSettings(expansion=4, steps=1))
    with pytest.raises(ValueError, match="k"):
        BatchTopK(k).encode(torch.zeros(4, 8), torch.zeros(32, 8), torch.zeros(32))


def test_row_34_batches_of_zeros():
    """Activations that are all zero give a dictionary without NaN, in which every latent counts as dead."""
    store = ActivationStore.from_grids(torch.zeros(4, 8, 8, 8), hookpoint="h", segmenter_hash="", slices_hash="")
    seen = []
    settings = FitSettings(k=2, expansion=4, steps=8, batch_size=64, dead_after=0.1)
    dictionary = fit_dictionary(store, settings=settings, progress=lambda done, total, **figures: seen.append(figures))
    assert all(bool(tensor.isfinite().all()) for tensor in dictionary.state_dict().values())
    assert dictionary.encode(torch.zeros(5, 8)).nnz == 0
    assert torch.equal(dictionary.decode(dictionary.encode(torch.zeros(5, 8))), torch.zeros(5, 8))
    assert all(
        math.isfinite(value) for figures in seen for name, value in figures.items() if name != "explained_variance"
    )
    assert seen[-1]["dead"] == 1.0


def test_row_34_dead_latents_are_reported():
    """Latents that never fire are counted in the quality, in the atlas and in the alignment, and give no NaN."""
    segmenter, slices, store = tiny_segmenter(), slices_of(4), store_of(4)
    dictionary = fit_dictionary(store, settings=FitSettings(k=2, expansion=4, steps=4, batch_size=64))
    dictionary.b_enc[::2] = -1e6
    quality = lens_quality(Lens(segmenter, dictionary), store, slices)
    assert quality.dead_share >= 0.5
    assert not any(isinstance(value, float) and math.isnan(value) for value in vars(quality).values())
    table = describe(Lens(segmenter, dictionary), slices, top_k=2).table
    dead = table.filter(pl.col("latent") % 2 == 0)
    assert dead["dead"].all()
    assert set(dead["name"]) == {"dead"}
    alive = torch.arange(32) % 2 == 1
    assert align(dictionary, dictionary, alive_source=alive, alive_target=alive).dead_source == 16


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_row_36_alpha_that_is_no_number(value, dictionary):
    """An edit by NaN or infinity is refused."""
    with pytest.raises(ValueError, match=rf"the value of an edit is {value}; give a finite number"):
        LatentEdit("stage1", dictionary.hash, (1,), "multiply", value)


@pytest.mark.parametrize(("operation", "value"), [("multiply", 1.0), ("add", 0.0), ("zero", 0.0)])
def test_row_36_identity(operation, value, segmenter, dictionary):
    """The identity edit is bit-identical to no edit: a factor of 1, an offset of 0, no latents."""
    images = slices_of(2).images()
    latents = () if operation == "zero" else tuple(range(16))
    with torch.no_grad():
        before = segmenter.logits(images)
        with steer(Lens(segmenter, dictionary), LatentEdit("stage1", dictionary.hash, latents, operation, value)):
            assert torch.equal(segmenter.logits(images), before)
        with steer(
            Lens(segmenter, dictionary), LatentEdit("stage1", dictionary.hash, tuple(range(16)), "multiply", 2.0)
        ):
            assert not torch.equal(segmenter.logits(images), before)


def test_row_37_what_does_not_belong_together(segmenter, dictionary):
    """A latent out of range, or a dictionary of another layer or model, is refused by hash, all in one message."""
    for latents, said in (((-1,), "different numbers >= 0"), ((3, 3), "different numbers >= 0")):
        with pytest.raises(ValueError, match=said):
            LatentEdit("stage1", dictionary.hash, latents, "zero")
    other = SparseAutoencoder(8, 16, k=2, hookpoint="stage1", segmenter_hash=tiny_segmenter(1).hash, seed=5)
    edits = [
        LatentEdit("stage1", dictionary.hash, (16,), "zero"),
        LatentEdit("stage2", dictionary.hash, (0,), "zero"),
        LatentEdit("stage1", other.hash, (0,), "zero"),
    ]
    with (
        pytest.raises(ValueError, match=r"has latents .16.; legal are 0..15") as caught,
        steer(Lens(segmenter, dictionary), *edits),
    ):
        pass
    assert "is for 'stage2', the dictionary for 'stage1'" in str(caught.value)
    assert f"is for dictionary {other.hash[:12]}, not {dictionary.hash[:12]}" in str(caught.value)
    refused = pytest.raises(
        ValueError, match=f"fitted to segmenter {other.segmenter_hash[:12]}, not to {segmenter.hash[:12]}"
    )
    with refused, steer(Lens(segmenter, other), LatentEdit("stage1", other.hash, (0,), "zero")):
        pass
    with pytest.raises(ValueError, match="tokens are 9 wide; this dictionary of 'stage1' takes 8"):
        dictionary.encode(torch.zeros(2, 9))
    assert not segmenter.module_at("stage1")._forward_hooks
    nameless = SparseAutoencoder(8, 16, k=2, hookpoint="stage1", seed=5)  # of another library, say
    refused = pytest.raises(ValueError, match="does not say which segmenter it was fitted to")
    with refused, steer(Lens(segmenter, nameless), LatentEdit("stage1", nameless.hash, (0,), "zero")):
        pass


@pytest.mark.parametrize("method", alignment_methods("weights"))
def test_row_38_unequal_width_and_zero_rows(method):
    """Dictionaries of unequal width are matched; who has no partner is listed, zero rows are left out and counted."""
    narrow, wide = SparseAutoencoder(8, 6, k=2), SparseAutoencoder(8, 10, k=2)
    order = torch.tensor([7, 2, 9, 0, 4, 5])
    narrow.W_enc.copy_(wide.W_enc[:, order])
    narrow.W_dec.copy_(wide.W_dec[order])
    narrow.W_dec[5] = 0
    found = align(narrow, wide, method=method)
    rows = found.pairs.to_dicts()
    assert {row["source_latent"]: row["target_latent"] for row in rows} == dict(enumerate(order[:5].tolist()))
    assert all(row["shared"] for row in rows)
    assert (found.dead_source, found.dead_target, found.unmatched_source) == (1, 0, ())
    assert found.unmatched_target == (1, 3, 5, 6, 8)
    back = align(wide, narrow, method=method)
    assert (back.dead_source, back.dead_target) == (0, 1)
    assert all(math.isfinite(row["similarity_enc"]) for row in back.pairs.to_dicts())
