"""A loss that is not finite ends a training or a fit before its weights are spoilt."""

from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.store import ActivationStore
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter

FIT = FitSettings(k=2, expansion=2, steps=6, batch_size=64)
TRAINING = TrainingSettings(steps=6, batch_size=4, learning_rate=1e-2, precision="fp32")
LABELS = {0: "background", 1: "tumour"}


class Spoilt:
    """A store whose batches hold a value that is not finite from a certain one on."""

    def __init__(self, store: ActivationStore, first: int, value: float):
        self._store, self._first, self._value = store, first, value

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def random_batches(self, batch_size, generator, *, first=0):
        for number, tokens in enumerate(self._store.random_batches(batch_size, generator, first=first), start=first):
            if number >= self._first:
                tokens[0, 0] = self._value
            yield tokens


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_row_35_a_fit(tmp_path, value):
    """A dictionary's loss or gradient that is not finite: stop, the last good state is kept and named."""
    grids = torch.randn(8, 8, 8, 6, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_grids(grids, hookpoint="middle", segmenter_hash="s", slices_hash="c")
    with pytest.raises(FloatingPointError) as stopped:
        fit_dictionary(Spoilt(store, 3, value), settings=FIT, checkpoint=tmp_path)
    said = str(stopped.value)
    assert f"the last good state is after step 3, it is kept in {tmp_path / 'fit.safetensors'}" in said
    assert "Look for non-finite activations in the store, or lower learning_rate" in said
    mended = fit_dictionary(store, settings=FIT, checkpoint=tmp_path)
    assert mended.hash == fit_dictionary(store, settings=FIT).hash


def test_row_35_a_fit_that_never_began(tmp_path):
    """Where the first loss is not finite nothing is kept."""
    grids = torch.randn(8, 8, 8, 6, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_grids(grids, hookpoint="middle", segmenter_hash="s", slices_hash="c")
    with pytest.raises(FloatingPointError, match=r"step 1 of 6: .* no step was done before"):
        fit_dictionary(Spoilt(store, 0, float("nan")), settings=FIT, checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []


class Poison:
    """An augmentation that spoils the images of one step."""

    def __init__(self, step: int, value: float):
        self.step, self.value, self.seen = step, value, 0

    def __call__(self, images, masks, generator):
        self.seen += 1
        return (images * self.value if self.seen == self.step else images), masks

    def __repr__(self):
        return "poison"


def trained(poison: Poison, checkpoint: Path | None) -> Segmenter:
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).byte()
    index = pl.DataFrame({"case": [f"case{row}" for row in range(8)]})
    slices = SliceSet.from_tensors(images, masks, masks < 2, index, name="toy", sequences=("T1",), labels=LABELS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 2, 1))
    start = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"middle": "1"}, size=16)
    return train_segmenter(slices, init_from=start, settings=TRAINING, augmentation=poison, checkpoint=checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_row_35_a_training(tmp_path, value):
    """A training's loss or gradient that is not finite: stop before it spoils the weights, last good state named."""
    with pytest.raises(FloatingPointError) as stopped:
        trained(Poison(4, value), tmp_path)
    said = str(stopped.value)
    assert "at step 4 of 6" in said
    assert f"the last good state is after step 3, it is kept in {tmp_path / 'step_0000003'}" in said
    assert "Lower learning_rate (now 0.01)" in said
    mended, whole = trained(Poison(0, 1.0), tmp_path), trained(Poison(0, 1.0), None)
    assert mended.hash == whole.hash
    with pytest.raises(FloatingPointError, match="give a checkpoint folder to keep it"):
        trained(Poison(4, value), None)


def test_a_gradient_that_is_not_finite_stops_though_the_loss_is(tmp_path, monkeypatch):
    broken = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        broken(parameters, limit)
        return torch.tensor(float("inf"))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    with pytest.raises(FloatingPointError, match=r"the loss is 1\.\d+ and its gradient's norm inf at step 1 of 6"):
        trained(Poison(0, 1.0), tmp_path)
