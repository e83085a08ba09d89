import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.extraction import extract
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.quality import dictionary_quality, lens_quality, participation_ratio
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "tumour"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Tanh())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images):
        return self.head(self.stem(images))


@pytest.fixture(scope="module")
def segmenter():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Net()
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"stem": "stem"}, size=16)


@pytest.fixture(scope="module")
def slices(segmenter):
    """Masks are what the network predicts, so that its own Dice is 1."""
    images = torch.randn(6, 1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    names = [f"p{i}" for i in range(6)]
    index = pl.DataFrame(
        {
            "row": pl.Series(range(6), dtype=pl.UInt32),
            "case": names,
            "patient": names,
            "volume": names,
            "position": pl.Series([0] * 6, dtype=pl.Int32),
            "spacing_row_mm": pl.Series([1.0] * 6, dtype=pl.Float32),
            "spacing_column_mm": pl.Series([1.0] * 6, dtype=pl.Float32),
            "split": ["test"] * 6,
        }
    )
    brains = torch.ones(6, 1, 16, 16, dtype=torch.bool)
    masks = segmenter.predict(images)
    return SliceSet.from_tensors(images, masks, brains, index, name="tiny", sequences=("T1",), labels=LABELS)


@pytest.fixture(scope="module")
def store(segmenter, slices):
    return extract(segmenter, slices, "stem")


@pytest.fixture(scope="module")
def fitted(store):
    return fit_dictionary(store, settings=FitSettings(k=4, expansion=6, steps=300, batch_size=128, learning_rate=5e-3))


def test_figures_equal_the_definitions_on_dense_arrays(fitted, store):
    tokens = store.tokens(torch.arange(store.n_tokens))
    z = fitted.encode(tokens).to_dense()
    reconstruction = (z @ fitted.W_dec + fitted.b_dec) / fitted.scale + fitted.centre
    left = (tokens - reconstruction).square().sum() / (tokens - tokens.mean(0)).square().sum()
    figures = dictionary_quality(fitted, store)
    assert figures.explained_variance == pytest.approx(1 - float(left), abs=1e-5)
    assert figures.l0 == pytest.approx(float((z != 0).sum(1).double().mean()))
    assert figures.dead_share == pytest.approx(float((z == 0).all(0).double().mean()))
    eigenvalues = torch.linalg.eigvalsh(torch.cov(tokens.double().T))
    expected = float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
    assert figures.participation_ratio == pytest.approx(expected, rel=1e-4)
    assert figures.n_tokens == 6 * 8 * 8
    assert figures.dice_kept is None


def test_dice_kept_stands_between_the_mean_and_the_untouched(fitted, store, segmenter, slices):
    figures = lens_quality(Lens(segmenter, fitted), store, slices)
    assert figures.dice_untouched == 1.0
    effect = figures.dice_untouched - figures.dice_mean_ablated
    assert effect > 0.2
    assert figures.dice_kept == pytest.approx((figures.dice_reconstructed - figures.dice_mean_ablated) / effect)
    assert figures.dice_kept > 0.7
    assert not any(module._forward_hooks for module in segmenter.network.modules())


def test_a_dictionary_that_returns_the_mean_keeps_nothing(store, segmenter, slices):
    nothing = SparseAutoencoder(8, 16, k=2, hookpoint="stem", segmenter_hash=segmenter.hash)
    nothing.centre.copy_(store.centre)
    nothing.theta.fill_(1e9)
    figures = lens_quality(Lens(segmenter, nothing), store, slices)
    assert figures.explained_variance == pytest.approx(0, abs=1e-6)
    assert figures.dice_kept == pytest.approx(0, abs=1e-9)
    assert (figures.l0, figures.dead_share) == (0, 1)


def test_a_dictionary_that_does_not_belong_is_refused(store, segmenter, slices):
    elsewhere = SparseAutoencoder(8, 16, k=2, hookpoint="head", segmenter_hash="another network")
    with pytest.raises(ValueError, match="hookpoint is 'head', here it is 'stem'; its segmenter is 'another network'"):
        dictionary_quality(elsewhere, store)
    elsewhere.hookpoint = "stem"
    with pytest.raises(ValueError, match="fitted to segmenter another netw"):
        lens_quality(Lens(segmenter, elsewhere), store, slices)


def test_no_variance_is_none_and_not_nan():
    assert participation_ratio(torch.zeros(3, 3)) is None
    assert participation_ratio(torch.eye(3)) == pytest.approx(3)
