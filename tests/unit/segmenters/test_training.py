from dataclasses import replace

import polars as pl
import pytest
import torch
from tests.toys import LABELS, TINY_SEGFORMER
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.runtime.devices import fast_bf16
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import (
    TrainingSettings,
    batch_rows,
    rate_at,
    train_segmenter,
)

SETTINGS = TrainingSettings(
    steps=6,
    batch_size=4,
    learning_rate=3e-3,
    precision="fp32",
    checkpoint_every=2,
    architecture_settings=TINY_SEGFORMER,
)


def slices_of(n=10, labels=LABELS, size=32):
    """Bright blobs: what is brighter than 1 is edema, than 2 enhancing."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 1, size // 8, size // 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") * 2
    masks = ((images[:, 0] > 0.5).byte() + (images[:, 0] > 1.5).byte()).clamp(max=len(labels) - 1)
    index = pl.DataFrame({"case": [f"case{row}" for row in range(n)]})
    return SliceSet.from_tensors(images, masks, masks >= 0, index, name="blobs", sequences=("T1",), labels=labels)


def same(one, other):
    weights, others = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_seed_decides_every_bit_and_the_global_generator_is_left_alone():
    slices = slices_of()
    before = torch.get_rng_state()
    one, two, three = (train_segmenter(slices, settings=SETTINGS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert one.hash == two.hash != three.hash
    assert not one.network.training
    assert (one.sequences, one.labels, one.size) == (("T1",), LABELS, 32)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_is_undisturbed_bit_for_bit(tmp_path, precision):
    slices, settings = slices_of(), replace(SETTINGS, precision=precision)
    undisturbed = train_segmenter(slices, settings=settings, checkpoint=tmp_path / "whole")

    def stop(done, total, **figures):
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train_segmenter(slices, settings=settings, checkpoint=tmp_path / "cut", progress=stop)
    assert [path.name for path in (tmp_path / "cut").glob("step_*")] == ["step_0000004"]
    seen = []
    resumed = train_segmenter(
        slices, settings=settings, checkpoint=tmp_path / "cut", progress=lambda done, total, **_: seen.append(done)
    )
    assert seen == [5, 6]
    assert same(resumed, undisturbed)
    histories = [pl.read_parquet(tmp_path / run / "step_0000006" / "history.parquet") for run in ("whole", "cut")]
    assert histories[0].equals(histories[1])
    assert histories[0]["step"].to_list() == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_is_read_and_another_run_is_refused(tmp_path):
    slices, seen = slices_of(), []
    first = train_segmenter(slices, settings=SETTINGS, checkpoint=tmp_path)
    again = train_segmenter(
        slices, settings=SETTINGS, checkpoint=tmp_path, progress=lambda done, total, **_: seen.append(done)
    )
    assert same(first, again)
    assert seen == []
    with pytest.raises(ValueError, match=r"another run: seed was 0, is 1; settings.clip was 1.0, is 2.0; start was"):
        train_segmenter(slices, settings=replace(SETTINGS, clip=2.0), seed=1, checkpoint=tmp_path)


def test_it_learns_and_checkpoints_do_not_matter():
    slices = slices_of(16)
    settings = replace(SETTINGS, steps=40, batch_size=8, learning_rate=1e-2, precision="auto")
    start = build_segmenter("segformer-b0", sequences=("T1",), labels=LABELS, size=32, settings=TINY_SEGFORMER)
    losses = []
    trained = train_segmenter(
        slices,
        init_from=start,
        settings=settings,
        augmentation=None,
        progress=lambda done, total, loss, rate: losses.append(loss),
    )
    before, after = (evaluate(one, slices).summary().dice_pooled["foreground"] for one in (start, trained))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert after > before + 0.15


def test_starting_from_other_classes_takes_the_rest_over_and_says_which_layers_are_new(caplog):
    start = build_segmenter("segformer-b0", sequences=("T1",), labels=LABELS, size=32, settings=TINY_SEGFORMER, seed=9)
    before = {name: value.clone() for name, value in start.network.state_dict().items()}
    slices = slices_of(labels={0: "background", 1: "tumour"})
    with caplog.at_level("INFO"):
        settings = replace(SETTINGS, steps=1, learning_rate=1e-12)
        trained = train_segmenter(slices, init_from=start, settings=settings)
    assert "decode_head.classifier.weight, decode_head.classifier.bias" in caplog.text
    name = "segformer.stages.2.blocks.0.mlp.fc1.weight"
    assert torch.allclose(trained.network.state_dict()[name], before[name], atol=1e-9)
    assert trained.n_classes == 2
    # what it started from is not trained
    assert all(torch.equal(value, before[name]) for name, value in start.network.state_dict().items())


def test_a_wrapped_network_can_be_trained():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    start = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"out": "0"}, size=32)
    trained = train_segmenter(slices_of(), init_from=start, settings=SETTINGS, augmentation=None)
    assert not same(trained, start)
    assert list(trained.hookpoints) == ["out"]
    with pytest.raises(ValueError, match=r"init_from wraps a network of 3 classes, 'blobs' has 2"):
        train_segmenter(slices_of(labels={0: "background", 1: "tumour"}), init_from=start)


def test_every_slice_comes_once_a_pass():
    rows = [row for step in range(5) for row in batch_rows(10, 4, step, seed=3)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert rows == [row for step in range(5) for row in batch_rows(10, 4, step, seed=3)]
    assert rows != [row for step in range(5) for row in batch_rows(10, 4, step, seed=4)]
    assert len(batch_rows(3, 8, 0, seed=0)) == 8


def test_the_rate_rises_and_falls():
    settings = TrainingSettings(steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [rate_at(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert rate_at(0, replace(settings, warmup_share=0.0)) == 1.0


def test_an_encoder_is_trained_at_its_own_rate():
    untrained = build_segmenter(sequences=("T1",), labels=LABELS, size=32, settings=TINY_SEGFORMER).network
    slow = replace(SETTINGS, learning_rate=1e-2, encoder_learning_rate=1e-30, weight_decay=0.0)
    moved = train_segmenter(slices_of(), settings=slow).network
    for name, before in untrained.named_parameters():
        after = moved.get_parameter(name)
        assert torch.allclose(before, after, atol=1e-12) == name.startswith("segformer."), name
    wrapped = Segmenter.wrap(nn.Conv2d(1, len(LABELS), 1), sequences=("T1",), labels=LABELS, hookpoints={}, size=32)
    with pytest.raises(ValueError, match=r"encoder_learning_rate is 1e-30, but .* has no encoder"):
        train_segmenter(slices_of(), init_from=wrapped, settings=slow)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tmp_path):
    def poison(images, masks, generator):
        return images * float("nan"), masks

    with pytest.raises(FloatingPointError, match=r"the loss is nan and .* at step 1 of 6; no step was done before"):
        train_segmenter(slices_of(), settings=SETTINGS, augmentation=poison, checkpoint=tmp_path)
    assert list(tmp_path.glob("step_*")) == []


def test_refusals():
    with pytest.raises(ValueError, match=r"steps is 0; it must be at least 1; clip is -1.0; it must be above 0"):
        TrainingSettings(steps=0, clip=-1.0)
    with pytest.raises(ValueError, match="'blobs' has no slices"):
        train_segmenter(slices_of().select([]))


def test_bf16_is_chosen_by_the_processor(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=answer: answer)
        assert fast_bf16(torch.device("cpu")) is answer
    assert not fast_bf16(torch.device("mps"))


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.runtime.distributed import alone, launched, sum_over_ranks
from seglens.segmenters.batch_norm import pooled_batch_norm
from seglens.segmenters.loss import dice_cross_entropy
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter

folder = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
images = torch.randn(9, 1, 16, 16, generator=generator)
masks = (images[:, 0] > 0.5).byte()
masks[4][masks[4] > 0] = 2  # a class that only one process sees
index = pl.DataFrame({"case": [f"case{row}" for row in range(9)]})
labels = {0: "background", 1: "tumour", 2: "cyst"}
slices = SliceSet.from_tensors(images, masks, masks >= 0, index, name="n", sequences=("T1",), labels=labels)


def fresh():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 3, 1)
    )
    return Segmenter.wrap(network, sequences=("T1",), labels=labels, hookpoints={}, size=16)


def loss_and_gradients(rank, size, dtype):
    network = fresh().network.to(dtype).train()
    with pooled_batch_norm(network):
        loss = dice_cross_entropy(network(images[rank::size].to(dtype))[:, :, None], masks[rank::size, None])
        (loss / size).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    sum_over_ranks(gradients)
    return float(loss), gradients, list(network.buffers())


def train(steps, name):
    settings = TrainingSettings(steps=5, batch_size=5, learning_rate=1e-2, precision="fp32", checkpoint_every=1)
    stop = None if steps == 5 else steps
    def progress(done, total, **figures):
        if done == stop:
            raise KeyboardInterrupt
    return train_segmenter(
        slices, init_from=fresh(), settings=settings, checkpoint=folder / name, augmentation=None, progress=progress
    ).network.state_dict()


def stopped_at(steps, name):
    try:
        train(steps, name)
    except KeyboardInterrupt:
        return
    raise AssertionError("not stopped")


def close(one, other):
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(one, other, strict=True))


with launched() as team:
    with alone():
        whole = loss_and_gradients(0, 1, torch.float32)
        single = train(5, f"single{team.rank}")
    shared = loss_and_gradients(team.rank, 2, torch.float32)
    assert abs(whole[0] - shared[0]) < 1e-6, (whole[0], shared[0])
    assert close(whole[1], shared[1]) and close(whole[2], shared[2])
    pair = train(5, "pair")
    assert close(single.values(), pair.values())
    assert not any(torch.equal(pair[name], value) for name, value in fresh().network.state_dict().items())
    stopped_at(2, "two then one")
    with alone():
        if team.rank == 0:
            resumed = train(5, "two then one")
            assert close(single.values(), resumed.values())
            stopped_at(2, "one then two")
    resumed = train(5, "one then two")
    assert close(single.values(), resumed.values())
    torch.save(pair, folder / f"rank{team.rank}.pt")
"""


def test_two_processes_equal_one_and_go_on_with_each_others_checkpoints(tmp_path, run_ranks):
    for ended in run_ranks("-c", TWO_PROCESSES, str(tmp_path)):
        assert ended.returncode == 0, ended.stderr
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [path.name for path in (tmp_path / "pair").glob("step_*")] == ["step_0000005"]
