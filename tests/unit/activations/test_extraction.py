import os
import subprocess
import sys

import polars as pl
import pytest
import torch
from einops import rearrange
from torch import nn

from seglens.activations import extraction
from seglens.activations.extraction import extract, extract_each
from seglens.activations.hooks import capture, edit
from seglens.activations.store import ActivationStore
from seglens.artifacts import ArtifactError, read_artifact
from seglens.cohorts.slices import SliceSet
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "tumour"}


def segmenter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=4, padding=1), nn.GELU(), nn.Conv2d(6, 2, 1))
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"middle": "1"}, size=16)


def slices_of(n=11, sequences=("T1",)):
    images = torch.randn(n, len(sequences), 16, 16, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(n, 16, 16, dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"case{row // 4}" for row in range(n)], "position": [10 + row for row in range(n)]})
    return SliceSet.from_tensors(images, masks, masks == 0, index, name="toy", sequences=sequences, labels=LABELS)


def by_hand(slices):
    network = segmenter().network
    with torch.no_grad():
        return rearrange(network[1](network[0](slices.images()[:, :, 0])), "B c h w -> B 1 h w c")


@pytest.mark.parametrize("shard_bytes", [1, 10_000, 2**26])
def test_tokens_are_the_activations_in_order(tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr(extraction, "SHARD_BYTES", shard_bytes)
    slices, seen = slices_of(), []
    store = extract(
        segmenter(), slices, "middle", batch_size=4, progress=lambda done, total, **_: seen.append((done, total))
    )
    assert torch.allclose(store.slice_tokens(torch.arange(11)), by_hand(slices), atol=1e-6)
    assert (store.segmenter_hash, store.slices_hash, store.hookpoint) == (segmenter().hash, slices.hash, "middle")
    assert store.index.equals(slices.index)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert len(store.shards) == (3 if shard_bytes == 1 else 1)

    on_disk = extract(segmenter(), slices, "middle", batch_size=4, folder=tmp_path / "store")
    assert on_disk.hash == store.hash
    assert torch.equal(on_disk.tokens(torch.arange(len(store))), store.tokens(torch.arange(len(store))))
    assert on_disk.scale == store.scale
    with pytest.raises(ArtifactError, match="exists"):
        extract(segmenter(), slices, "middle", folder=tmp_path / "store")


def two_places():
    """An activation, and the same one changed in place behind it, half as fine."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 9, 2, 2), nn.Conv2d(9, 2, 1)
    )
    places = {"early": "0", "late": "2"}
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints=places, size=16)


@pytest.mark.parametrize("shard_bytes", [1, 9_000, 2**26])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_two_hookpoints_of_one_pass_are_those_of_two(tmp_path, monkeypatch, shard_bytes, dtype):
    monkeypatch.setattr(extraction, "SHARD_BYTES", shard_bytes)
    model, slices, passes = two_places(), slices_of(), []
    alone = {name: extract(model, slices, name, batch_size=4, dtype=dtype) for name in ("early", "late")}
    model.network[3].forward = None  # would fail if it were called
    model.network[0].register_forward_hook(lambda *_: passes.append(1))
    kept = extract_each(model, slices, dict.fromkeys(("late", "early")), batch_size=4, dtype=dtype)
    assert len(passes) == 3
    written = extract_each(
        model, slices, {name: tmp_path / name for name in ("early", "late")}, batch_size=4, dtype=dtype
    )
    for stores in (kept, written):
        for name, store in alone.items():
            assert stores[name].hash == store.hash and stores[name].scale == store.scale
            assert stores[name].quantisation_error == store.quantisation_error
            rows = torch.arange(len(store))
            assert torch.equal(stores[name].tokens(rows), store.tokens(rows))
    by_itself = extract(model, slices, "late", batch_size=4, dtype=dtype, folder=tmp_path / "alone")
    manifests = [read_artifact(tmp_path / name).hash for name in ("late", "alone")]
    assert manifests[0] == manifests[1] and by_itself.hash == written["late"].hash


def test_where_one_hookpoint_is_not_finite_none_is_stored(tmp_path):
    model = two_places()
    model.network[2].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="activations at 'late' are not finite"):
        extract_each(model, slices_of(), {name: tmp_path / name for name in ("early", "late")})
    assert not list(tmp_path.iterdir())


def test_nothing_behind_the_hookpoint_runs():
    model = segmenter()
    with capture(model, "middle"):
        model.network[2].forward = None  # would fail if it were called
        store = extract(model, slices_of(), "middle")
    assert store.n_slices == 11


def test_an_edit_in_force_is_seen():
    model = segmenter()
    with edit(model, "middle", torch.zeros_like):
        assert float(extract(model, slices_of(), "middle").centre.abs().sum()) == 0.0


def test_half_precision_is_kept_and_read_as_float32():
    store = extract(segmenter(), slices_of(), "middle", dtype=torch.float16)
    assert store.shards[0].values.dtype == torch.float16
    assert store.tokens(torch.arange(2)).dtype == torch.float32
    assert torch.allclose(store.slice_tokens(torch.arange(11)), by_hand(slices_of()), atol=1e-3)


@pytest.mark.parametrize(("dtype", "largest"), [("bfloat16", 1e-5), ("float16", 1e-6), ("int8", 5e-4)])
@pytest.mark.parametrize("shard_bytes", [1, 2**26])
def test_what_a_narrow_type_loses_is_measured(tmp_path, monkeypatch, dtype, largest, shard_bytes):
    monkeypatch.setattr(extraction, "SHARD_BYTES", shard_bytes)
    exact = extract(segmenter(), slices_of(), "middle", batch_size=4)
    assert exact.quantisation_error == 0.0
    everything = torch.arange(len(exact))
    tokens = exact.tokens(everything).double()
    in_memory = extract(segmenter(), slices_of(), "middle", batch_size=4, dtype=dtype)
    on_disk = extract(segmenter(), slices_of(), "middle", batch_size=4, dtype=dtype, folder=tmp_path / "store")
    assert (in_memory.hash, in_memory.scale) == (on_disk.hash, on_disk.scale)
    for store in (in_memory, on_disk):
        kept = store.tokens(everything).double()
        expected = (kept - tokens).square().sum() / (kept - kept.mean(0)).square().sum()
        assert store.quantisation_error == pytest.approx(float(expected), rel=1e-5)
        assert 0 < store.quantisation_error < largest
        assert store.hash != exact.hash
    assert read_artifact(tmp_path / "store").inputs["dtype"] == f"torch.{dtype}"


def test_memory_is_given_from_shard_to_shard_only_where_nobody_keeps_it(monkeypatch):
    monkeypatch.setattr(extraction, "SHARD_BYTES", 1)
    for dtype in ("float32", "float16", "int8"):
        store = extract(segmenter(), slices_of(), "middle", batch_size=2, dtype=dtype)
        assert torch.allclose(store.slice_tokens(torch.arange(11)), by_hand(slices_of()), atol=0.05)


def test_activations_that_are_not_finite_name_the_slice_and_nothing_is_stored(tmp_path):
    model, slices = segmenter(), slices_of()
    images = slices.images()
    images[6, 0, 0, 3, 3] = float("nan")
    bad = SliceSet.from_tensors(
        images, slices.masks(), slices.brains(), slices.index, name="bad", sequences=("T1",), labels=LABELS
    )
    with pytest.raises(ValueError, match="at 'middle' are not finite as float32 in 1 slices: case1 slice 16; check"):
        extract(model, bad, "middle", batch_size=4, folder=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        model.network[0].weight.mul_(1e6)
    with pytest.raises(ValueError, match="not finite as float16 in 11 slices: case0 slice 10, case0 slice 11, "):
        extract(model, slices, "middle", dtype=torch.float16)
    with pytest.raises(ValueError, match="not finite as int8 in 1 slices: case1 slice 16; check"):
        extract(segmenter(), bad, "middle", dtype="int8")


def test_refusals():
    with pytest.raises(ValueError, match="no hookpoint 'midle'; did you mean 'middle'"):
        extract(segmenter(), slices_of(), "midle")
    with pytest.raises(ValueError, match="tokens cannot be kept as float64; choose float32, bfloat16, float16, int8"):
        extract(segmenter(), slices_of(), "middle", dtype=torch.float64)
    with pytest.raises(ValueError, match="its sequences are T2"):
        extract(segmenter(), slices_of(sequences=("T2",)), "middle")
    with pytest.raises(ValueError, match="'toy' has no slices"):
        extract(segmenter(), slices_of().select([]), "middle")


TWO_PROCESSES = """
import sys
from pathlib import Path

import polars as pl
import torch
from torch import distributed, nn

from seglens.activations import extraction
from seglens.cohorts.slices import SliceSet
from seglens.segmenters.segmenter import Segmenter

folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
extraction.SHARD_BYTES = 1
images = torch.randn(11, 1, 16, 16, generator=torch.Generator().manual_seed(1))
masks = torch.zeros(11, 16, 16, dtype=torch.uint8)
index = pl.DataFrame({"case": [f"case{row // 4}" for row in range(11)], "position": [10 + row for row in range(11)]})
labels = {0: "background", 1: "tumour"}
slices = SliceSet.from_tensors(images, masks, masks == 0, index, name="toy", sequences=("T1",), labels=labels)
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=4, padding=1), nn.GELU(), nn.Conv2d(6, 2, 1))
model = Segmenter.wrap(network, sequences=("T1",), labels=labels, hookpoints={"middle": "1"}, size=16)
seen = []
in_memory = extraction.extract(model, slices, "middle", batch_size=4, progress=lambda done, total: seen.append(done))
on_disk = extraction.extract(model, slices, "middle", batch_size=4, folder=folder / "store")
assert in_memory.hash == on_disk.hash and in_memory.n_slices == 11
model = Segmenter.wrap(network, sequences=("T1",), labels=labels, hookpoints={"middle": "1", "first": "0"}, size=16)
extraction.SHARD_BYTES = 4000  # 6 shards of one hookpoint, 2 of the other
wide = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(6, 2, 1))
wide = Segmenter.wrap(wide, sequences=("T1",), labels=labels, hookpoints={"fine": "0", "coarse": "1"}, size=16)
both = extraction.extract_each(wide, slices, {name: folder / name for name in ("fine", "coarse")}, batch_size=2)
assert [len(both[name].shards) for name in ("fine", "coarse")] == [6, 2]
if rank == 0:
    torch.save(wide.network.state_dict(), folder / "wide.pt")
print(in_memory.hash, in_memory.scale, in_memory.centre.tolist(), seen[-1], sep="|")
distributed.destroy_process_group()
"""


@pytest.mark.processes
def test_two_processes_equal_one_bit_for_bit(tmp_path, monkeypatch):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), str(rank), "2"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    monkeypatch.setattr(extraction, "SHARD_BYTES", 1)
    torch.set_num_threads(1)
    alone = extract(segmenter(), slices_of(), "middle", batch_size=4)
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    for (answer, _), n_own in zip(answers, (7, 4), strict=True):
        content, scale, centre, done = answer.strip().split("|")
        assert content == alone.hash
        assert float(scale) == alone.scale
        assert centre == str(alone.centre.tolist())
        assert int(done) == n_own
    wide = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(6, 2, 1))
    wide.load_state_dict(torch.load(tmp_path / "wide.pt"))
    places = {"fine": "0", "coarse": "1"}
    model = Segmenter.wrap(wide, sequences=("T1",), labels=LABELS, hookpoints=places, size=16)
    monkeypatch.setattr(extraction, "SHARD_BYTES", 4000)
    for name in places:
        together = ActivationStore.read(read_artifact(tmp_path / name))
        assert together.hash == extract(model, slices_of(), name, batch_size=2).hash
