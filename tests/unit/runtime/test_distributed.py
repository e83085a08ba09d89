"""Several processes at one task: what each gets, what they agree on, and how a failure ends them all."""

import time

import pytest
import torch

from seglens.runtime.distributed import (
    all_reduce,
    alone,
    broadcast_from_main,
    gather_object,
    is_main_process,
    own_share,
    rank_and_size,
    rank_range,
)

TOGETHER = """
import sys
from pathlib import Path

import polars as pl
import torch
from torch import nn

from seglens.activations.extraction import extract
from seglens.artifacts import new_artifact, read_artifact
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.distributed import (
    all_reduce, alone, barrier, broadcast_from_main, gather_object, is_main_process, launched, own_share,
    rank_and_size, rank_range, sum_over_ranks,
)
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import sweep

folder = Path(sys.argv[1])
torch.manual_seed(0)
images = torch.randn(13, 1, 16, 16)
masks = (images[:, 0] > 0.5).byte()
index = pl.DataFrame(
    {"case": [f"case{row // 4}" for row in range(13)], "spacing_row_mm": [1.0] * 13, "spacing_column_mm": [2.0] * 13}
)
labels = {0: "background", 1: "tumour"}
slices = SliceSet.from_tensors(images, masks, masks >= 0, index, name="toy", sequences=("T1",), labels=labels)
network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(6, 2, 1))
model = Segmenter.wrap(network, sequences=("T1",), labels=labels, hookpoints={"middle": "1"}, size=16)
dictionary = SparseAutoencoder(6, 12, k=3, seed=0, hookpoint="middle", segmenter_hash=model.hash, store_hash="none")
edits = [LatentEdit("middle", dictionary.hash, (1, 4), "multiply", value) for value in (0.0, 3.0)]


def results():
    lens = Lens(model, dictionary)
    return (
        evaluate(model, slices, hd95=True, batch_size=3).table,
        sweep(lens, slices, edits, batch_size=3).table,
        extract(model, slices, "middle", batch_size=3).hash,
    )


with launched() as team:
    rank = team.rank
    assert rank_and_size() == (rank, 3) and is_main_process() == (rank == 0)
    assert list(rank_range(7)) == [[0, 3, 6], [1, 4], [2, 5]][rank]
    assert [list(range(7))[own_share(7)]] == [[0, 1], [2, 3], [4, 5, 6]][rank : rank + 1]
    assert broadcast_from_main(lambda: f"from {rank}") == "from 0"
    assert gather_object({number: number**2 for number in rank_range(7)}) == [n**2 for n in range(7)]
    assert gather_object({0: "one"} if rank == 2 else {}) == ["one"]
    # the loss (w1 + 2 w2 + 3 w3)^2 of parameters w = 1: each process holds one term
    w = torch.ones(1, requires_grad=True)
    loss = all_reduce((rank + 1) * w).square()
    (loss / 3).backward()
    assert loss.item() == 36 and w.grad.item() == 2 * 6 * (rank + 1)
    sums = [torch.full((3,), 1.0), torch.full((300, 300), 2.0), torch.full((400, 400), 3.0).T[:, ::2], torch.zeros(0)]
    sum_over_ranks(sums)
    assert [(float(x.min()), float(x.max())) for x in sums[:3]] == [(3.0, 3.0), (6.0, 6.0), (9.0, 9.0)]
    with new_artifact(folder / "made", kind="toy", inputs={}) as draft:
        draft.save_document("who", rank)
        draft.save_table("table", index)
        draft.save_tensors("tensors", {"images": images})
    barrier()
    assert read_artifact(folder / "made").document("who") == 0
    together = results()
    with alone():
        assert rank_and_size() == (0, 1) and list(rank_range(3)) == [0, 1, 2]
        assert broadcast_from_main(lambda: rank) == rank
        single = results()
    assert rank_and_size() == (rank, 3)
    assert together[0].equals(single[0]) and together[1].equals(single[1]) and together[2] == single[2]
    torch.optim.Adam([torch.ones(1, requires_grad=True)])  # imports much of torch while the group is there
    barrier()
# A thread of gloo that outlives the group may give back a tensor while the interpreter ends, which aborts the process.
if Path("/proc/self/task").is_dir():
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert not [name for name in threads if "gloo" in name], threads
"""

FAILING = """
import os, sys, time
from seglens import cli
from seglens.runtime.distributed import barrier
from seglens.studies import study


def run_study(*arguments, **settings):
    if os.environ["RANK"] == failing:
        raise {error}("slice 3 is bad")
    {others}


study.run_study = run_study
out, failing = sys.argv[1:]
sys.argv = ["seglens", "demo", "--out", out]
cli.main()
"""


def test_a_process_of_its_own_is_the_first_and_only_one():
    assert rank_and_size() == (0, 1)
    assert is_main_process()
    assert list(rank_range(3)) == [0, 1, 2]
    assert own_share(5) == slice(0, 5)
    assert broadcast_from_main(lambda: 7) == 7
    assert gather_object({1: "b", 0: "a"}) == ["a", "b"]
    own = torch.ones(2, requires_grad=True)
    assert all_reduce(own) is own


def test_alone_ends_with_an_error_too():
    with pytest.raises(KeyError), alone(), alone():
        raise KeyError
    assert rank_and_size() == (0, 1)


def test_three_processes_agree_and_equal_one(tmp_path, run_ranks):
    for ended in run_ranks("-c", TOGETHER, str(tmp_path), size=3):
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("case", [("ValueError", 2, "time.sleep(100)"), ("OSError", 1, "barrier()")])
def test_who_fails_speaks_and_ends_all_with_the_same_code(tmp_path, run_ranks, failing, case):
    error, code, others = case
    started = time.monotonic()
    script = FAILING.format(error=error, others=others)
    ended = run_ranks("-c", script, str(tmp_path / "out"), str(failing))
    assert time.monotonic() - started < 60  # nobody slept to the end
    assert [process.returncode for process in ended] == [code, code], ended
    assert "slice 3 is bad" in ended[failing].stderr
    assert ended[1 - failing].stderr == ""
    assert "".join(process.stdout for process in ended) == ""


def test_verbs_of_one_process_are_done_by_the_first(tmp_path, run_ranks):
    ended = run_ranks("-m", "seglens.cli", "check", str(tmp_path / "nowhere"))
    assert [process.returncode for process in ended] == [2, 2]
    assert "is not a folder" in ended[0].stderr
    assert ended[1].stderr == ""
