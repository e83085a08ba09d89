import pytest
import torch

from seglens.activations import moments
from seglens.activations.moments import Chunks, centre_of, energies_of, facts_of, scale_of, squared_error, total_of
from seglens.activations.shards import Shard, as_shard
from seglens.artifacts import hash_tensors


def shards_of(shape, per_shard, dtype=torch.float32):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    return [as_shard(part, dtype) for part in values.split(per_shard)]


def by_the_book(shards, length):
    """Fresh float64 copies of every chunk, added one after the other."""
    tokens = [shard.grids(torch.arange(len(shard))).flatten(0, 3) for shard in shards]
    total = sum(part.double().sum(0) for own in tokens for part in own.split(length))
    n = sum(map(len, tokens))
    centre = (total / n).float()
    energy = 0.0
    for part in (part for own in tokens for part in own.split(length)):
        energy += float((part - centre).double().square().sum())
    return centre, energy, n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [((7, 1, 3, 4, 5), 3), ((1, 1, 1, 1, 1), 1), ((4, 2, 8, 4, 16), 4)])
@pytest.mark.parametrize("chunk", [1, 10, 2**16])
def test_centre_and_scale_are_those_of_fresh_copies_bit_for_bit(monkeypatch, dtype, shape, chunk):
    monkeypatch.setattr(moments, "CHUNK_TOKENS", chunk)
    shards = shards_of(*shape, dtype)
    chunks = Chunks()
    facts = [facts_of(shard, chunks) for shard in shards]
    centre = centre_of(facts)
    energy = total_of(energies_of(shard, chunks, centre) for shard in shards)
    expected_centre, expected_energy, _ = by_the_book(shards, chunk)
    assert torch.equal(centre, expected_centre)
    assert energy == expected_energy
    assert [shard.hash for shard in facts] == [hash_tensors(shard.tensors()) for shard in shards]


def test_long_tokens_have_short_chunks(monkeypatch):
    monkeypatch.setattr(moments, "CHUNK_ELEMENTS", 40)
    (shard,) = shards_of((5, 1, 2, 2, 16), 5)
    assert [len(chunk) for chunk in Chunks().of(shard)] == [2] * 10
    (wide,) = shards_of((3, 1, 1, 1, 50), 3)
    assert [len(chunk) for chunk in Chunks().of(wide)] == [1, 1, 1]


def test_scale_makes_the_mean_square_one():
    shards = shards_of((7, 1, 3, 4, 5), 3)
    _, energy, n = by_the_book(shards, 10)
    assert n == 84
    assert scale_of(energy, 84, 5) == (5 / (energy / 84)) ** 0.5
    assert scale_of(0.0, 84, 5) == 1.0


def test_squared_error_is_that_of_the_difference():
    grids = torch.randn(6, 2, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float16, torch.bfloat16, torch.int8):
        shard = as_shard(grids, dtype)
        kept = shard.grids(torch.arange(6))
        expected = float((kept.double() - grids.double()).square().sum())
        assert squared_error(shard, grids, Chunks()) == pytest.approx(expected, rel=1e-9)
    assert squared_error(Shard(grids), grids, Chunks()) == 0.0
