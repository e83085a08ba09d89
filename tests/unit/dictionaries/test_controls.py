import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.live import live_activations
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.controls import (
    LENS,
    RUNGS,
    Ladder,
    LeftOut,
    both_signs,
    channels,
    lens_features,
    pixel_grid,
    pixels,
    untrained_dictionary,
)
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Hookpoint, Segmenter

N, SIZE = 6, 8


@pytest.fixture(scope="module")
def slices():
    images = torch.randn(N, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    patients = ["a", "a", "b", "b", "c", "c"]
    masks = torch.zeros(N, SIZE, SIZE, dtype=torch.uint8)
    index = pl.DataFrame({"case": patients, "patient": patients})
    brains = torch.ones_like(masks, dtype=torch.bool)
    labels = {0: "background", 1: "lesion"}
    return SliceSet.from_tensors(images, masks, brains, index, name="s", sequences=["T1", "T2"], labels=labels)


@pytest.fixture(scope="module")
def lens():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2))
    labels = {0: "background", 1: "lesion"}
    place = {"middle": Hookpoint("0")}
    segmenter = Segmenter.wrap(network, sequences=["T1", "T2"], labels=labels, hookpoints=place, size=SIZE)
    dictionary = SparseAutoencoder(4, 16, k=2, seed=1, hookpoint="middle", segmenter_hash=segmenter.hash)
    dictionary.theta.fill_(0.3)
    return Lens(segmenter, dictionary)


@pytest.fixture(scope="module")
def store(lens, slices):
    return live_activations(lens.segmenter, slices, "middle")


def codes_of(source, slices, batch_size=4):
    return torch.cat([view.codes.to_dense() for view in source.over(slices, batch_size=batch_size)])


def test_a_ladder_needs_every_rung_or_a_reason():
    rungs = {rung: [0.1] for rung in RUNGS}
    ladder = Ladder("two models share", 0.6, rungs | {RUNGS[2]: LeftOut("codes have no such thing")})
    assert [name for name, _ in ladder] == [LENS, *RUNGS]
    assert dict(ladder)[LENS] == [0.6]
    without = {rung: found for rung, found in rungs.items() if rung != "pixels"}
    with pytest.raises(ValueError, match="two models share: controls missing: pixels; unknown: none"):
        Ladder("two models share", 0.6, without)
    with pytest.raises(ValueError, match="unknown: noise"):
        Ladder("two models share", 0.6, rungs | {"noise": [1.0]})
    with pytest.raises(ValueError, match="without a value: dense features"):
        Ladder("two models share", 0.6, rungs | {"dense features": []})
    with pytest.raises(ValueError, match="say it in words"):
        LeftOut(" ")


def test_every_source_has_the_face_of_a_lens(lens, slices, store):
    of_lens = torch.cat([view.codes.to_dense() for view in lens.over(slices)])
    assert torch.equal(codes_of(lens_features(lens), slices), of_lens)
    sources = [
        lens_features(lens),
        lens_features(Lens(lens.segmenter, untrained_dictionary(lens.dictionary, store))),
        channels(lens.segmenter, store),
        channels(lens.segmenter, store, principal=True),
        pixels(lens.segmenter, (1, 4, 4)),
    ]
    for source in sources:
        views = list(source.over(slices, batch_size=4))
        assert [row for view in views for row in view.rows] == list(range(N))
        assert {view.grid for view in views} == {(1, 4, 4)}
        dense = codes_of(source, slices)
        assert dense.shape == (N * 16, source.n_latents) and (dense >= 0).all() and dense.any()


def test_signed_features_hold_the_activation(lens, slices, store):
    tokens = store.tokens(torch.arange(store.n_tokens))
    dense = codes_of(channels(lens.segmenter, store), slices)
    torch.testing.assert_close(dense[:, :4] - dense[:, 4:], tokens - store.centre)
    principal = codes_of(channels(lens.segmenter, store, principal=True), slices)
    covariance = torch.cov((principal[:, :4] - principal[:, 4:]).T)
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), atol=1e-4, rtol=0)
    assert both_signs(torch.tensor([[1.0, -2.0]])).to_dense().tolist() == [[1, 0, 0, 2]]


def test_pixels_are_mean_spread_and_roughness_of_a_token_s_cell(lens, slices):
    found = pixel_grid(slices.images(), (1, 4, 4))
    cell = slices.images()[2, 1, 0, 2:4, 4:6]
    steps = slices.images()[2, 1, 0, 2:4].diff(dim=-1)[:, 4:6]
    expected = torch.stack([cell.mean(), cell.std(correction=0), steps.square().mean().sqrt()])
    torch.testing.assert_close(found[2, 0, 1, 2, 3:], expected)
    dense = codes_of(pixels(lens.segmenter, (1, 4, 4)), slices)
    assert dense.shape[1] == 8
    torch.testing.assert_close(dense[:, 0] - dense[:, 6], found.flatten(0, 3)[:, 0])


def test_an_untrained_dictionary_is_as_sparse(lens, store):
    fitted = SparseAutoencoder(4, 16, k=2, seed=1, hookpoint="middle", segmenter_hash=lens.segmenter.hash)
    with torch.no_grad():
        fitted.W_dec.neg_()
        fitted.centre.fill_(0.1)
    untrained = untrained_dictionary(fitted, store)
    tokens = store.tokens(torch.arange(store.n_tokens))
    assert untrained.encode(tokens).l0 == pytest.approx(fitted.k, rel=0.1)
    assert not torch.equal(untrained.W_dec, fitted.W_dec) and torch.equal(untrained.centre, fitted.centre)
