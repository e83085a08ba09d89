"""A device without memory for a batch, simulated by a network that refuses more than so many slices."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import polars as pl
import pytest
import torch
from tests.faults.scans import write_cohort
from torch import nn

from seglens.activations.extraction import extract
from seglens.activations.live import live_activations
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import SliceSet
from seglens.cohorts.source_options import SourceOptions
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.oom import Halving, NotEnoughMemoryError
from seglens.segmenters.gradient import LossGradient
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.scoring import evaluate, predict_slices
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import sweep

LABELS = {0: "background", 1: "tumour"}
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
)


class Small(nn.Module):
    """A network of three layers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(1, 6, 3, stride=2, padding=1)
            self.middle = nn.GELU()
            self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


@contextmanager
def room_for(most: int, error: Exception = OUT_OF_MEMORY[0]) -> Iterator[list[int]]:
    """Inside, no network has memory for more slices; yields the sizes of all batches that were tried."""
    sizes: list[int] = []
    forward = Small.forward

    def limited(self, x):
        sizes.append(len(x))
        if len(x) > most:
            raise error
        return forward(self, x)

    Small.forward = limited
    try:
        yield sizes
    finally:
        Small.forward = forward


@pytest.fixture(scope="module")
def slices() -> SliceSet:
    images = torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).byte()
    spacing = {"spacing_row_mm": [1.0] * 10, "spacing_column_mm": [1.0] * 10}
    index = pl.DataFrame({"case": [f"case{row}" for row in range(10)], **spacing})
    return SliceSet.from_tensors(images, masks, masks < 2, index, name="toy", sequences=("T1",), labels=LABELS)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter.wrap(Small(), sequences=("T1",), labels=LABELS, hookpoints={"middle": "middle"}, size=32)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_row_45_evaluation(segmenter, slices, error):
    """Predictions: a batch without memory is done in halves, and so are all later ones; the scores are the same."""
    whole = evaluate(segmenter, slices, hd95=True, batch_size=4)
    labels = predict_slices(segmenter, slices, batch_size=4)
    with room_for(2, error) as sizes:
        assert evaluate(segmenter, slices, hd95=True, batch_size=4).table.equals(whole.table)
        assert sizes == [4, 2, 2, 2, 2, 1, 1]
        assert torch.equal(predict_slices(segmenter, slices, batch_size=4), labels)


def test_row_45_masks_of_files(segmenter, tmp_path):
    """`seglens predict`: masks made in halves are those of whole batches, voxel for voxel."""
    files = write_cohort(tmp_path / "files", ["a", "b"])
    cohort = read_cohort(files, SourceOptions(labels=LABELS, mask_values={0: 0, 1: 1, 2: 1, 4: 1}), sequences=["T1"])
    segmenter = replace(segmenter, preprocessing=Preprocessing(("T1",), segmenter.size, foreground="brain"))
    whole = predict_cohort(segmenter, cohort, folder=tmp_path / "whole", batch_size=8)
    with room_for(4) as sizes:
        assert predict_cohort(segmenter, cohort, folder=tmp_path / "halves", batch_size=8).hash == whole.hash
        assert sizes == [8, 4, 4, 2, 2, 4, 4, 2, 2]
    with room_for(3), pytest.raises(NotEnoughMemoryError, match="predictions: out of memory with half of 8 at once"):
        predict_cohort(segmenter, cohort, folder=tmp_path / "refused", batch_size=8)
    assert not (tmp_path / "refused").exists()


def test_row_45_activations(segmenter, slices, tmp_path):
    """Activations: a store made in halves holds the same tokens, in memory, on disk, and computed when read."""
    whole = extract(segmenter, slices, "middle", batch_size=4)
    every = torch.arange(whole.n_tokens)
    with room_for(2):
        for store in (
            extract(segmenter, slices, "middle", batch_size=4),
            extract(segmenter, slices, "middle", batch_size=4, folder=tmp_path / "store"),
            live_activations(segmenter, slices, "middle", batch_size=4),
        ):
            torch.testing.assert_close(store.tokens(every), whole.tokens(every), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(store.centre, whole.centre, rtol=1e-6, atol=1e-6)


def test_row_45_sweeps(segmenter, slices):
    """Sweeps: every edit has the same scores from batches done in halves."""
    dictionary = SparseAutoencoder(
        6, 12, k=3, seed=0, hookpoint="middle", segmenter_hash=segmenter.hash, store_hash="none"
    )
    edits = [LatentEdit("middle", dictionary.hash, (1, 4), "multiply", value) for value in (0.0, 3.0)]
    whole = sweep(Lens(segmenter, dictionary), slices, edits, batch_size=6)
    with room_for(3):
        assert sweep(Lens(segmenter, dictionary), slices, edits, batch_size=6).table.equals(whole.table)


@pytest.mark.parametrize("batch_size", [5, 6])
def test_row_45_training(segmenter, slices, batch_size):
    """Training: batches done in halves give the same weights, within 1e-5 (but for dropout and batch norms)."""
    settings = TrainingSettings(steps=8, batch_size=batch_size, learning_rate=1e-2, precision="fp32")

    def trained() -> tuple[Segmenter, list[float]]:
        losses = []
        made = train_segmenter(
            slices,
            init_from=segmenter,
            settings=settings,
            progress=lambda done, total, loss, rate: losses.append(loss),
        )
        return made, losses

    whole, losses = trained()
    with room_for(3) as sizes:
        halved, halved_losses = trained()
    assert sizes[0] == batch_size
    assert max(sizes[1:]) == 3
    assert halved_losses == pytest.approx(losses, rel=1e-5)
    for name, weights in whole.network.state_dict().items():
        torch.testing.assert_close(halved.network.state_dict()[name], weights, rtol=1e-5, atol=1e-5)


def test_row_45_half_is_too_much(segmenter, slices):
    """Where half a batch is too much too: a stop that says what to change."""
    with room_for(1), pytest.raises(NotEnoughMemoryError) as stopped:
        evaluate(segmenter, slices, batch_size=4)
    assert str(stopped.value) == (
        "predictions: out of memory with half of 4 at once (CUDA out of memory. Tried to allocate 2.00 GiB); "
        "give a smaller batch_size"
    )
    settings = TrainingSettings(steps=2, batch_size=4, precision="fp32")
    with room_for(1), pytest.raises(NotEnoughMemoryError, match=r"training: .* half of 4 .*; lower batch_size"):
        train_segmenter(slices, init_from=segmenter, settings=settings)
    with room_for(0), pytest.raises(NotEnoughMemoryError, match="half of 1"):
        evaluate(segmenter, slices, batch_size=1)


def test_other_faults_are_not_taken_for_it(segmenter, slices):
    with room_for(2, RuntimeError("shapes differ")) as sizes, pytest.raises(RuntimeError, match="shapes differ"):
        evaluate(segmenter, slices, batch_size=4)
    assert sizes == [4]


def test_batch_norms_see_each_half_once(slices):
    """What is approximate: statistics of halves. What is not: each half counts once, a failed pass not at all."""
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1))
    halving = LossGradient(network, lambda images: raw_logits(network, images, 2), 1)
    halving._halving.halved = True
    images, masks = slices.images(range(6)), slices.masks(range(6))
    halving(images, masks, lambda *half: 0)
    norm = network[0]
    assert int(norm.num_batches_tracked) == 2
    mean = torch.zeros(())
    for half in images.split(3):
        mean = 0.9 * mean + 0.1 * half.mean()
    torch.testing.assert_close(norm.running_mean[0], mean)


def test_dropout_is_the_same_in_both_passes_of_a_half(slices):
    drawn = []

    class Noise(nn.Module):
        def forward(self, x):
            drawn.append(float(torch.rand(())))
            return x

    network = nn.Sequential(Noise(), nn.Conv2d(1, 2, 1))
    halving = LossGradient(network, lambda images: raw_logits(network, images, 2), 1)
    halving._halving.halved = True
    halving(slices.images(range(4)), slices.masks(range(4)), lambda *half: 7 + sum(half))
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_the_failed_attempt_gives_its_memory_back():
    held = []

    class Array:
        def __del__(self):
            held.append("freed")

    def whole():
        array = Array()
        raise torch.OutOfMemoryError(f"no room beside {id(array)}")

    assert Halving("work", "less").whole_or_halves(whole, lambda: list(held), 2) == ["freed"]
