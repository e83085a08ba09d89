import pytest
import torch
from safetensors.torch import save_file

from seglens.activations import shards as shards_module
from seglens.activations.shards import DTYPES, Shard, ShardFiles, Shards, as_shard, checked_dtype, shard_name


def grids(n=5, d=1, h=2, w=3, d_in=4):
    return torch.randn(n, d, h, w, d_in, generator=torch.Generator().manual_seed(0)) * 5


@pytest.mark.parametrize("space", [{}, {"d": 3, "w": 1}])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_grids_tokens_and_runs_are_the_same_floats(dtype, space):
    shard = as_shard(grids(**space), dtype)
    assert shard.values.dtype == dtype
    assert (len(shard), shard.n_tokens) == (5, 30)
    everything = shard.grids(torch.arange(5))
    assert everything.dtype == torch.float32
    assert torch.equal(shard.grids(torch.tensor([4, 0, 4])), everything[[4, 0, 4]])
    rows = torch.tensor([29, 0, 7, 7])
    assert torch.equal(shard.tokens(rows), everything.flatten(0, 3)[rows])
    for length in (1, 7, 30, 100):
        assert torch.equal(torch.cat([part.float() for part in shard.runs(length)]), everything.flatten(0, 3))


def test_float32_is_kept_as_it_is():
    assert as_shard(grids(), torch.float32).values.data_ptr() != 0
    assert torch.equal(as_shard(grids(), torch.float32).grids(torch.arange(5)), grids())


def test_int8_is_off_by_half_a_step_at_most_and_exact_at_the_largest_value():
    values = grids()
    values[2, 0, 1, 0] = 0.0
    values[3, 0, 0, 0] = torch.tensor([1e30, -1e28, 1e20, 0.0])
    shard = as_shard(values, torch.int8)
    kept = shard.grids(torch.arange(5))
    step = values.abs().amax(-1, keepdim=True) / 127
    assert bool(((kept - values).abs() <= 0.5001 * step).all())
    largest = values.abs().amax(-1)
    assert torch.allclose(kept.abs().amax(-1), largest, rtol=1e-6)
    assert torch.equal(kept[2, 0, 1, 0], torch.zeros(4))
    assert set(shard.tensors()) == {"tokens", "step"}
    assert set(as_shard(values, torch.float16).tensors()) == {"tokens"}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_only_volumes_are_written_with_an_axis_of_depth(dtype, depth):
    written = as_shard(grids(d=depth), dtype).tensors()
    assert {tensor.ndim for tensor in written.values()} == {4 if depth == 1 else 5}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("mapped_bytes", [0, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_files_are_shards_and_only_a_small_store_stays_mapped(tmp_path, monkeypatch, dtype, mapped_bytes, depth):
    monkeypatch.setattr(shards_module, "MAPPED_BYTES", mapped_bytes)
    shards = tuple(as_shard(part.contiguous(), dtype) for part in grids(d=depth).split(2))
    for number, shard in enumerate(shards):
        save_file(shard.tensors(), tmp_path / f"{shard_name(number)}.safetensors")
    files = ShardFiles(tmp_path, 3)
    assert isinstance(files, Shards)
    assert isinstance(shards, Shards)
    assert [len(shard) for shard in files] == [2, 2, 1]
    for number, shard in enumerate(files):
        whole = torch.arange(len(shard))
        assert torch.equal(shard.grids(whole), shards[number].grids(whole))
        assert torch.equal(shard.grids(slice(0, 1)), shards[number].grids(whole[:1]))
    assert (files[1] is files[1]) == (mapped_bytes > 0)
    (tmp_path / "shard_00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file shard_00001\.safetensors, shard_00003\.safetensors; remove"):
        ShardFiles(tmp_path, 4)


def test_types_and_their_names():
    assert checked_dtype("int8") is torch.int8
    assert checked_dtype(torch.bfloat16) is torch.bfloat16
    assert checked_dtype("torch.float16") is torch.float16
    for wrong in ("float64", torch.float64, "half", ""):
        with pytest.raises(ValueError, match=r"tokens cannot be kept as .*; choose float32, bfloat16, float16, int8"):
            checked_dtype(wrong)


def test_a_shard_of_one_token():
    shard = as_shard(torch.tensor([[[[[2.0, -1.0]]]]]), torch.int8)
    assert torch.allclose(shard.tokens(torch.tensor([0])), torch.tensor([[2.0, -1.0]]), atol=0.01)
    assert torch.equal(Shard(torch.ones(1, 1, 1, 1, 1)).tokens(torch.tensor([0])), torch.ones(1, 1))
