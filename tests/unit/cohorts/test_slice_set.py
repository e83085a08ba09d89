from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from seglens.artifacts import new_artifact, read_artifact
from seglens.cohorts import slice_set, slice_shards
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import SliceSet, evenly_spaced

LABELS = {0: "background", 1: "tumour"}


def make(n: int = 11, seed: int = 0, **columns: list) -> SliceSet:
    g = torch.Generator().manual_seed(seed)
    index = pl.DataFrame({"case": [f"c{i // 4}" for i in range(n)]} | columns)
    return SliceSet.from_tensors(
        torch.randn(n, 2, 16, 12, generator=g),
        torch.randint(0, 2, (n, 16, 12), generator=g, dtype=torch.uint8),
        torch.rand(n, 16, 12, generator=g) > 0.5,
        index,
        name="set",
        sequences=("T1", "T2"),
        labels=LABELS,
    )


def write(slices: SliceSet, folder: Path) -> SliceSet:
    with new_artifact(folder, kind="slices", inputs={}) as draft:
        slices.write(draft)
    return SliceSet.read(read_artifact(folder, "slices", verify=True))


def same_pixels(a: SliceSet, b: SliceSet) -> bool:
    return all(torch.equal(getattr(a, what)(), getattr(b, what)()) for what in ("images", "masks", "brains"))


def test_the_index_is_completed_and_typed() -> None:
    slices = make(6)
    assert dict(slices.index.schema) == {name: kind() for name, kind in SliceSet.COLUMNS.items()}
    assert slices.index["position"].to_list() == [0, 1, 2, 3, 0, 1]
    assert slices.index["row"].to_list() == slices.index["origin"].to_list() == list(range(6))
    assert slices.index["patient"].to_list() == slices.index["case"].to_list()
    assert slices.size == (1, 16, 12)
    assert "site" in make(2, site=["a", "b"]).index.columns
    with pytest.raises(ValueError, match="needs at least 'case'"):
        slice_set.complete_index(pl.DataFrame({"patient": ["p"]}))


@pytest.mark.parametrize("rows", [None, [3], [5, 0, 5, 10], [], torch.tensor([2, 1])])
def test_rows_come_in_the_order_asked_for(rows: list[int] | torch.Tensor | None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slice_shards, "SHARD_BYTES", 4 * 16 * 12 * 10)  # four slices a shard
    slices = make()
    read = write(slices, tmp_path / "a")
    assert [len(shard) for shard in read.shards] == [4, 4, 3]
    wanted = list(range(11)) if rows is None else [int(row) for row in rows]
    for some in (slices, read):
        assert some.images(rows).shape == (len(wanted), 2, 1, 16, 12)
        for place, row in enumerate(wanted):
            assert torch.equal(some.images(rows)[place], slices.shards[0].images[row])
            assert torch.equal(some.masks(rows)[place], slices.shards[0].masks[row])
            assert torch.equal(some.brains(rows)[place], slices.shards[0].brains[row])


def test_selections_number_anew_and_remember_their_origin(tmp_path: Path) -> None:
    slices = make()
    some = slices.select([9, 4, 2]).select([2, 0])
    assert some.index["row"].to_list() == [0, 1]
    assert some.index["origin"].to_list() == [2, 9]
    assert torch.equal(some.images(), slices.images([2, 9]))
    assert len({slices.hash, some.hash, slices.select([9, 4, 2]).hash}) == 3
    assert slices.select(range(11)) is slices
    assert slices.select([9, 4, 2]).select([2, 0]).hash == some.hash
    read = write(some, tmp_path / "some")
    assert read.hash == some.hash
    assert read.index.equals(some.index)
    assert same_pixels(read, some)
    assert (read.name, read.sequences, dict(read.labels)) == ("set", ("T1", "T2"), LABELS)


def test_splits() -> None:
    slices = make(4, split=["train", "test", "train", "val"])
    assert slices.split("train").index["origin"].to_list() == [0, 2]
    assert set(slices.split("train").index["split"]) == {"train"}
    with pytest.raises(ValueError, match="no slice in the split 'tset'; it has test, train, val"):
        slices.split("tset")


def test_batches_cover_every_row_once() -> None:
    assert list(make(7).batches(3)) == [[0, 1, 2], [3, 4, 5], [6]]
    with pytest.raises(ValueError, match="batch_size 0"):
        list(make(7).batches(0))


def test_the_hash_follows_the_content() -> None:
    assert make().hash == make().hash
    assert len({make().hash, make(seed=1).hash, make(split=["train"] * 11).hash}) == 3


def test_wrong_rows_and_lengths() -> None:
    for rows in ([11], [-1]):
        with pytest.raises(ValueError, match=r"they must be in 0\.\.10"):
            make().images(rows)
    with pytest.raises(ValueError, match="give as many of each"):
        SliceSet.from_tensors(
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, 4, 4, dtype=torch.bool),
            pl.DataFrame({"case": ["a"]}),
            name="s",
            sequences=("T1",),
            labels=LABELS,
        )


def test_the_preprocessing_is_kept_by_every_way_on(tmp_path: Path) -> None:
    own = Preprocessing(("T1",), 16, (20.0, 80.0), "none")
    plain = make()
    assert plain.preprocessing is None
    slices = SliceSet.from_tensors(
        plain.images(),
        plain.masks(),
        plain.brains(),
        plain.index,
        name=plain.name,
        sequences=plain.sequences,
        labels=plain.labels,
        preprocessing=replace(own, sequences=plain.sequences),
    )
    assert slices.hash != plain.hash  # what is trained on them is prepared for otherwise
    for other in (slices.select([2, 0]), write(slices, tmp_path / "a"), slices.split("test")):
        assert other.preprocessing == slices.preprocessing
    with pytest.raises(ValueError, match="preprocessing has the sequences"):
        SliceSet.from_tensors(
            plain.images(),
            plain.masks(),
            plain.brains(),
            plain.index,
            name=plain.name,
            sequences=plain.sequences,
            labels=plain.labels,
            preprocessing=replace(own, sequences=("other",)),
        )


def test_evenly_spaced() -> None:
    assert evenly_spaced(3, 10) == [0, 1, 2]
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(190, 100)[-1] == 188


def test_no_more_than_a_few_shards_stay_mapped(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slice_shards, "SHARD_BYTES", 1)  # one slice a shard
    monkeypatch.setattr(slice_shards, "OPEN_SHARDS", 2)
    slices = make()
    read = write(slices, tmp_path / "a")
    assert len(read.shards) == 11
    for _ in range(2):
        assert torch.equal(read.images(), slices.images())
    assert isinstance(read.shards, slice_shards.SliceShardFiles)
    assert read.shards.n_open == 2
    assert read.shards[10] is read.shards[10]
