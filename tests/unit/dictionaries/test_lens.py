import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.hooks import activations
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.lens import Lens, fit_lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.oom import NotEnoughMemoryError
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "edema"}


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 5, 4, stride=4), nn.ReLU(), nn.Conv2d(5, 2, 1))
    places = {"first": "0", "second": "1"}
    return Segmenter.wrap(network, sequences=("T1", "FLAIR"), labels=LABELS, hookpoints=places, size=16)


@pytest.fixture
def slices():
    images = torch.randn(7, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 1).byte()
    index = pl.DataFrame({"case": [f"c{number // 2}" for number in range(7)]})
    return SliceSet.from_tensors(images, masks, masks < 2, index, name="toy", sequences=("T1", "FLAIR"), labels=LABELS)


def dictionary_of(segmenter, **other):
    settings = {"k": 3, "seed": 1, "hookpoint": "first", "segmenter_hash": segmenter.hash} | other
    dictionary = SparseAutoencoder(settings.pop("d_in", 5), 12, **settings)
    dictionary.theta.fill_(0.2)
    return dictionary


def dense(views):
    return Codes.concatenate([view.codes for view in views]).to_dense()


def test_views_are_activations_and_their_codes_in_order(segmenter, slices):
    lens, announce = Lens(segmenter, dictionary_of(segmenter)), []
    views = list(lens.over(slices, batch_size=3, progress=lambda done, total, **_: announce.append((done, total))))
    assert [list(view.rows) for view in views] == [[0, 1, 2], [3, 4, 5], [6]]
    assert announce == [(3, 7), (6, 7), (7, 7)]
    for view in views:
        assert torch.equal(view.images, slices.images(view.rows))
        with torch.no_grad():
            assert torch.equal(view.tokens, activations(segmenter, "first", view.images))
        codes = lens.dictionary.encode(view.tokens.flatten(0, 3)).to_dense()
        assert torch.equal(view.codes.to_dense(), codes)
        assert view.grid == (1, 4, 4)
        torch.testing.assert_close(view.mass(), codes.view(len(view.rows), 16, 12).sum(1))


def test_memory_that_runs_out_in_the_middle_changes_no_code(segmenter, slices, monkeypatch):
    lens = Lens(segmenter, dictionary_of(segmenter))
    whole = dense(lens.over(slices, batch_size=4))
    encode, sizes = SparseAutoencoder.encode, []

    def limited(self, tokens):
        sizes.append(len(tokens) // 16)
        if len(sizes) == 2:  # the first batch has had room, the second has none
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, tokens)

    monkeypatch.setattr(SparseAutoencoder, "encode", limited)
    views = list(lens.over(slices, batch_size=4))
    assert sizes == [4, 3, 2, 1]
    assert [list(view.rows) for view in views] == [[0, 1, 2, 3], [4, 5], [6]]
    torch.testing.assert_close(dense(views), whole, rtol=1e-6, atol=1e-6)


def test_half_a_batch_too_many_is_told(segmenter, slices, monkeypatch):
    def full(self, tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    lens = Lens(segmenter, dictionary_of(segmenter))
    monkeypatch.setattr(SparseAutoencoder, "encode", full)
    with pytest.raises(NotEnoughMemoryError, match="codes: out of memory with half of 4"):
        list(lens.over(slices, batch_size=4))


def test_what_does_not_belong_together_is_refused(segmenter, slices):
    with pytest.raises(ValueError, match="no hookpoint 'frist'"):
        Lens(segmenter, dictionary_of(segmenter, hookpoint="frist"))
    with pytest.raises(ValueError, match="fitted to segmenter aaaaaaaaaaaa"):
        Lens(segmenter, dictionary_of(segmenter, segmenter_hash="a" * 64))
    with pytest.raises(ValueError, match="5 wide, the dictionary takes 6"):
        Lens(segmenter, dictionary_of(segmenter, segmenter_hash="", d_in=6))
    with pytest.raises(ValueError, match="the dictionary is on meta, the segmenter on cpu"):
        Lens(segmenter, dictionary_of(segmenter).to("meta"))
    lens = Lens(segmenter, dictionary_of(segmenter, segmenter_hash=""))
    other = SliceSet.from_tensors(
        slices.images(), slices.masks(), slices.brains(), slices.index, name="o", sequences=("A", "B"), labels=LABELS
    )
    with pytest.raises(ValueError, match="its sequences are A, B"):
        next(lens.over(other))


def test_a_lens_is_identified_by_both_parts(segmenter):
    lens = Lens(segmenter, dictionary_of(segmenter))
    assert lens.hash == Lens(segmenter, dictionary_of(segmenter)).hash
    assert lens.hash != Lens(segmenter, dictionary_of(segmenter, seed=2)).hash
    assert lens.dictionary_hash == lens.dictionary.hash


def test_a_fitted_lens_is_that_of_extract_and_fit(segmenter, slices):
    lens = fit_lens(segmenter, "second", slices, settings=FitSettings(k=2, expansion=2, steps=3, batch_size=32))
    assert (lens.hookpoint, lens.dictionary.n_latents, lens.dictionary.k) == ("second", 10, 2)
    assert lens.dictionary.segmenter_hash == segmenter.hash
    assert lens.dictionary.store_hash
