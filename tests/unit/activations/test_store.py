from dataclasses import replace

import polars as pl
import pytest
import torch

from seglens.activations import shuffling
from seglens.activations.shards import ShardFiles, as_shard
from seglens.activations.store import KIND, ActivationStore
from seglens.artifacts import new_artifact, read_artifact


def grids(seed=0, n=7, h=3, w=4, d_in=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, h, w, d_in, generator=generator) * torch.arange(1.0, d_in + 1) + 2.0


def store_of(values, per_shard=3, **changes):
    settings = {"hookpoint": "stage2", "segmenter_hash": "s", "slices_hash": "d", **changes}
    return ActivationStore.from_grids(values.split(per_shard), **settings)


def test_a_token_knows_its_slice_row_and_column():
    values = grids()
    store = store_of(values)
    assert (len(store), store.n_tokens, store.n_slices, store.grid, store.d_in) == (84, 84, 7, (1, 3, 4), 5)
    rows = torch.tensor([83, 0, 12, 41, 12])
    expected = torch.stack([values[t // 12, (t % 12) // 4, t % 4] for t in rows.tolist()])
    assert torch.equal(store.tokens(rows), expected)
    assert torch.equal(store.slice_tokens([6, 2]), values[[6, 2]][:, None])
    assert torch.equal(store.slice_tokens(torch.tensor([1])), values[1:2, None])


def test_a_token_of_a_volume_knows_its_slice_too(tmp_path):
    values = grids().view(7, 3, 2, 2, 5)
    store = store_of(values)
    assert (len(store), store.grid) == (84, (3, 2, 2))
    rows = torch.tensor([83, 0, 12, 41])
    expected = torch.stack([values[t // 12, t % 12 // 4, t % 4 // 2, t % 2] for t in rows.tolist()])
    assert torch.equal(store.tokens(rows), expected)
    with new_artifact(tmp_path / "store", kind=KIND, inputs={}) as draft:
        store.write(draft)
    read = ActivationStore.read(read_artifact(tmp_path / "store", KIND))
    assert (read.grid, read.hash) == (store.grid, store.hash)
    assert torch.equal(read.slice_tokens([6, 2]), values[[6, 2]])


@pytest.mark.parametrize("per_shard", [1, 3, 7])
def test_centre_and_scale_do_not_depend_on_the_shards(per_shard):
    values = grids()
    store = store_of(values, per_shard)
    flat = values.reshape(-1, 5).double()
    assert torch.allclose(store.centre.double(), flat.mean(0), atol=1e-6)
    scaled = (flat - store.centre) * store.scale
    assert float(scaled.square().sum(1).mean()) == pytest.approx(5.0, rel=1e-5)


def test_random_batches_are_a_seeded_pass_over_every_token():
    store = store_of(grids())
    batches = [list(store.random_batches(20, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)]
    assert [len(batch) for batch in batches[0]] == [20, 20, 20, 20, 4]
    one, again, other = (torch.cat(batch) for batch in batches)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    everything = torch.cat(list(store.batches(50)))
    assert not torch.equal(one, everything)
    assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, everything.tolist()))
    assert torch.equal(everything, grids().reshape(-1, 5))


def test_a_pass_over_a_small_store_is_one_random_permutation():
    store = store_of(grids())
    order = torch.randperm(84, generator=torch.Generator().manual_seed(4), dtype=torch.int32).long()
    expected = [grids().reshape(-1, 5)[rows] for rows in order.split(20)]
    for first in range(7):
        found = list(store.random_batches(20, torch.Generator().manual_seed(4), first=first))
        assert len(found) == max(0, 5 - first)
        assert all(torch.equal(one, other) for one, other in zip(found, expected[first:], strict=True))


@pytest.mark.parametrize("per_shard", [1, 3, 7])
def test_a_pass_over_a_large_store_goes_through_the_buffer(monkeypatch, per_shard):
    monkeypatch.setattr(shuffling, "BUFFER_BYTES", 40 * 5 * 4)  # 40 of 84 tokens: 3 of 7 slices
    monkeypatch.setattr(shuffling, "MIN_BLOCKS", 1)
    store = store_of(grids(), per_shard)
    whole = list(store.random_batches(9, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in whole] == [9] * 9 + [3]
    everything = torch.cat(whole)
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, grids().reshape(-1, 5).tolist()))
    assert not torch.equal(everything, grids().reshape(-1, 5))
    for first in range(11):
        rest = list(store.random_batches(9, torch.Generator().manual_seed(1), first=first))
        assert all(torch.equal(one, other) for one, other in zip(rest, whole[first:], strict=True))
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    turned = torch.cat(list(store.transformed(matrix).random_batches(9, torch.Generator().manual_seed(1))))
    assert torch.allclose(turned, (everything - store.centre) @ matrix + store.centre, atol=1e-4)


def test_a_store_of_one_token_and_of_one_slice():
    one = store_of(torch.ones(1, 1, 1, 2))
    assert [batch.tolist() for batch in one.random_batches(8, torch.Generator())] == [[[1.0, 1.0]]]
    assert list(one.random_batches(8, torch.Generator(), first=1)) == []
    lone = store_of(grids(n=1))
    assert sum(map(len, lone.random_batches(5, torch.Generator()))) == 12
    assert lone.tokens(torch.zeros(0, dtype=torch.int64)).shape == (0, 5)
    assert lone.slice_tokens([]).shape == (0, 1, 3, 4, 5)


def test_a_rotated_store_has_the_same_spectrum_and_other_directions():
    values = grids()
    store = store_of(values)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    rotated = store.transformed(rotation)
    flat = values.reshape(-1, 5)
    expected = (flat - store.centre) @ rotation + store.centre
    assert torch.allclose(torch.cat(list(rotated.batches(30))), expected, atol=1e-5)
    assert torch.allclose(rotated.slice_tokens([2]), expected.view(7, 1, 3, 4, 5)[2:3], atol=1e-5)
    assert torch.allclose(
        torch.linalg.svdvals(flat - store.centre), torch.linalg.svdvals(expected - store.centre), atol=1e-3
    )
    assert (rotated.scale, rotated.n_tokens) == (store.scale, store.n_tokens)
    assert rotated.hash != store.hash
    assert rotated.hash == store.transformed(rotation).hash
    back = rotated.transformed(rotation.T)
    assert torch.allclose(back.tokens(torch.arange(84)), flat, atol=1e-4)


def test_a_stretched_store_has_a_scale_of_its_own():
    store = store_of(grids()).transformed(torch.diag(torch.tensor([3.0, 1.0, 1.0, 0.5, 1.0])))
    scaled = (store.tokens(torch.arange(84)) - store.centre) * store.scale
    assert float(scaled.square().sum(1).mean()) == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_written_and_read_is_the_same(tmp_path, dtype):
    index = pl.DataFrame({"row": range(7), "case": [f"c{row}" for row in range(7)]})
    store = store_of(grids().to(dtype), index=index)
    with new_artifact(tmp_path / "store", kind=KIND, inputs={}) as draft:
        store.write(draft)
    read = ActivationStore.read(read_artifact(tmp_path / "store", KIND))
    assert torch.equal(read.tokens(torch.arange(84)), store.tokens(torch.arange(84)))
    assert read.tokens(torch.arange(3)).dtype == torch.float32
    assert torch.equal(read.centre, store.centre)
    fields = ("hookpoint", "segmenter_hash", "slices_hash", "grid", "d_in", "scale", "hash", "n_tokens")
    assert [getattr(read, name) for name in fields] == [getattr(store, name) for name in fields]
    assert read.index.equals(store.index)
    assert isinstance(read.shards, ShardFiles)
    assert len(read.shards) == 3


def test_int8_tokens_are_written_and_read(tmp_path):
    index = pl.DataFrame({"row": range(7)})
    store = store_of(grids(), index=index)
    shards = tuple(as_shard(shard.values, torch.int8) for shard in store.shards)
    narrow = replace(store, shards=shards, quantisation_error=1e-4)
    with new_artifact(tmp_path / "store", kind=KIND, inputs={}) as draft:
        narrow.write(draft)
    read = ActivationStore.read(read_artifact(tmp_path / "store", KIND))
    assert read.quantisation_error == 1e-4
    every = torch.arange(84)
    assert torch.equal(read.tokens(every.flip(0)), narrow.tokens(every.flip(0)))
    assert torch.equal(read.slice_tokens([6, 2]), read.tokens(every).view(7, 1, 3, 4, 5)[[6, 2]])
    assert float((read.tokens(every) - store.tokens(every)).abs().max()) < 0.5001 * float(grids().abs().max()) / 127


def test_the_head_of_a_float32_store_is_what_it_always_was(tmp_path):
    # numbers whose sums are exact in any order: torch.randn is not the same on every processor
    exact = ((torch.arange(7 * 3 * 4 * 5) * 37 % 128 - 64) / 8).view(7, 3, 4, 5)
    with new_artifact(tmp_path / "store", kind=KIND, inputs={}) as draft:
        store_of(exact).write(draft)
    head = read_artifact(tmp_path / "store", KIND).document("activations")
    assert sorted(head) == [
        "d_in",
        "grid",
        "hash",
        "hookpoint",
        "n_shards",
        "scale",
        "segmenter_hash",
        "slices_hash",
    ]
    assert head["hash"] == "5843685254cd967e1a4fe5af341e9b270f0613afc292ce9c52a7baadbc49736a"


def test_the_hash_is_that_of_the_content():
    assert store_of(grids()).hash == store_of(grids()).hash
    others = [store_of(grids(1)), store_of(grids(), hookpoint="stage3"), store_of(grids(), segmenter_hash="t")]
    assert len({store_of(grids()).hash, *(other.hash for other in others)}) == 4


def test_tokens_that_are_all_the_same_have_scale_one():
    assert store_of(torch.ones(2, 2, 2, 3)).scale == 1.0


def test_refusals(tmp_path):
    store = store_of(grids())
    with pytest.raises(ValueError, match=r"token 0\.\.84: the store has tokens 0\.\.83"):
        store.tokens(torch.tensor([0, 84]))
    with pytest.raises(ValueError, match=r"slice -1\.\.-1: the store has slices 0\.\.6"):
        store.slice_tokens([-1])
    with pytest.raises(ValueError, match=r"tokens are 5 wide"):
        store.transformed(torch.eye(4))
    with (
        pytest.raises(ValueError, match="not written; write its original"),
        new_artifact(tmp_path / "store", kind=KIND, inputs={}) as draft,
    ):
        store.transformed(torch.eye(5)).write(draft)
    with pytest.raises(ValueError, match="7 slices of activations and 1 rows of index"):
        store_of(grids(), index=pl.DataFrame({"row": [0]}))
    broken = grids()
    broken[3, 1, 1, 1] = float("inf")
    with pytest.raises(ValueError, match="activations are not finite"):
        store_of(broken)
