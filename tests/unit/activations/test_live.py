import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations import extraction, shuffling
from seglens.activations.extraction import extract
from seglens.activations.live import live_activations
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.token_source import TokenSource
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "tumour"}
GRID_TOKENS, D_IN = 16, 6


def segmenter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, D_IN, 3, stride=4, padding=1), nn.GELU(), nn.Conv2d(D_IN, 2, 1))
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"middle": "1"}, size=16)


def slices_of(n=43):
    images = torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(n, 16, 16, dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"case{row // 4}" for row in range(n)]})
    return SliceSet.from_tensors(images, masks, masks == 0, index, name="toy", sequences=("T1",), labels=LABELS)


def count_passes(model):
    seen = []
    model.network[0].register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    return seen


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Large: 8 of 43 slices fit in the buffer, blocks of 2."""
    if request.param == "large":
        monkeypatch.setattr(shuffling, "BUFFER_BYTES", 8 * GRID_TOKENS * D_IN * 4)
        monkeypatch.setattr(shuffling, "MIN_BLOCKS", 4)
    return request.param


@pytest.mark.parametrize("shard_bytes", [1, 5 * GRID_TOKENS * D_IN * 4, 2**26])
def test_tokens_centre_and_scale_are_those_of_the_store(monkeypatch, size, shard_bytes):
    monkeypatch.setattr(extraction, "SHARD_BYTES", shard_bytes)
    live = live_activations(segmenter(), slices_of(), "middle")
    store = extract(segmenter(), slices_of(), "middle", batch_size=2 if size == "large" else 32)
    assert isinstance(live, TokenSource)
    assert torch.equal(live.centre, store.centre)
    assert live.scale == store.scale
    rows = torch.randperm(len(store), generator=torch.Generator().manual_seed(2))
    assert torch.equal(live.tokens(rows), store.tokens(rows))
    assert torch.equal(live.slice_tokens([42, 0, 7]), store.slice_tokens([42, 0, 7]))
    assert live.index.equals(store.index)
    assert live.hash != store.hash
    assert live.hash == live_activations(segmenter(), slices_of(), "middle").hash
    others = [
        live_activations(segmenter(), slices_of(), "middle", batch_size=5),
        live_activations(segmenter(), slices_of(42), "middle"),
    ]
    assert len({live.hash, *(other.hash for other in others)}) == 3


def test_order_is_that_of_the_store(monkeypatch, size, tmp_path):
    live = live_activations(segmenter(), slices_of(), "middle")
    batch_size = 2 if size == "large" else 32
    store = extract(segmenter(), slices_of(), "middle", batch_size=batch_size, folder=tmp_path / "store")
    for first in (0, 3):
        passes = [list(one.random_batches(50, torch.Generator().manual_seed(5), first=first)) for one in (live, store)]
        assert len(passes[0]) == 14 - first
        assert all(torch.equal(one, other) for one, other in zip(*passes, strict=True))


def test_a_fit_is_bit_for_bit_that_from_the_store(size, tmp_path):
    settings = FitSettings(k=2, expansion=2, steps=25, batch_size=64, checkpoint_every=10)
    batch_size = 2 if size == "large" else 32
    store = extract(segmenter(), slices_of(), "middle", batch_size=batch_size, folder=tmp_path / "store")
    live = live_activations(segmenter(), slices_of(), "middle")
    fits = [fit_dictionary(source, settings=settings, seed=3) for source in (store, live)]
    weights = [fit.state_dict() for fit in fits]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_network_runs_no_more_than_it_must(size):
    model = segmenter()
    seen = count_passes(model)
    live = live_activations(model, slices_of(), "middle")
    shape = 1 if size == "small" else 1 + 2  # one slice, and the first batch of two once more
    assert sum(seen) == shape + (43 if size == "small" else 2 * 43)
    seen.clear()
    assert sum(map(len, live.random_batches(100, torch.Generator()))) == 43 * GRID_TOKENS
    assert sum(seen) == (0 if size == "small" else 43)
    seen.clear()
    live.tokens(torch.arange(0, 43 * GRID_TOKENS, 7))
    assert sum(seen) == (0 if size == "small" else 43)


def test_a_rotation_is_applied_when_tokens_are_computed(size):
    rotation, _ = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(1)))
    live = live_activations(segmenter(), slices_of(), "middle")
    store = extract(segmenter(), slices_of(), "middle")
    rows = torch.arange(100)
    assert torch.allclose(live.transformed(rotation).tokens(rows), store.transformed(rotation).tokens(rows), atol=1e-5)


def test_progress_and_one_slice():
    seen = []
    live = live_activations(
        segmenter(), slices_of(1), "middle", progress=lambda done, total, **_: seen.append((done, total))
    )
    assert live.n_tokens == GRID_TOKENS
    assert seen == [(1, 2), (2, 2)]
    assert sum(map(len, live.random_batches(5, torch.Generator()))) == GRID_TOKENS


def test_refusals():
    with pytest.raises(ValueError, match="no hookpoint 'midle'; did you mean 'middle'"):
        live_activations(segmenter(), slices_of(), "midle")
    with pytest.raises(ValueError, match="'toy' has no slices"):
        live_activations(segmenter(), slices_of().select([]), "middle")
    slices = slices_of(5)
    images = slices.images()
    images[3, 0, 0, 0] = float("inf")
    bad = SliceSet.from_tensors(
        images, slices.masks(), slices.brains(), slices.index, name="bad", sequences=("T1",), labels=LABELS
    )
    with pytest.raises(ValueError, match="at 'middle' are not finite as float32 in 1 slices: case0 slice 3"):
        live_activations(segmenter(), bad, "middle", batch_size=2)
