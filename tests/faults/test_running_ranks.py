"""Of several processes one dies or hangs: all end within the limits of a Team, and fewer go on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.watchdog import LIMITS, SILENCE, STANDSTILL, seconds
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter

LABELS = {0: "background", 1: "tumour"}
SETTINGS = TrainingSettings(steps=6, batch_size=4, learning_rate=1e-2, precision="fp32", checkpoint_every=2)


def trained(folder: Path, stop=None) -> Segmenter:
    """A small network without dropout; ``stop`` is called after the fifth step."""
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 0.5).byte()
    index = pl.DataFrame({"case": [f"case{row}" for row in range(8)]})
    slices = SliceSet.from_tensors(images, masks, masks < 2, index, name="toy", sequences=("T1",), labels=LABELS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 2, 1))
    start = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"middle": "1"}, size=16)

    def progress(done, total, **figures):
        if done == 5 and stop is not None:
            stop()

    return train_segmenter(
        slices, init_from=start, settings=SETTINGS, checkpoint=folder, augmentation=None, progress=progress
    )


RANK = """
import os, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tests.faults.test_running_ranks import trained
from seglens.runtime.distributed import launched

with launched() as team:
    trained(Path(sys.argv[2]), (lambda: {fault}) if team.rank == 1 else None)
    {after}
"""


def ranks(folder: Path, fault: str, **limits: float) -> tuple[subprocess.Popen, subprocess.Popen]:
    """Two processes that train together; the second meets with a fault."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).parents[2])
    script = RANK.format(fault=fault, after="time.sleep(1000)")
    launcher = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    launcher |= {name: str(value) for name, value in limits.items()}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", script, root, str(folder)],
            env={**os.environ, **launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    return first, second


def what_becomes_of(first: subprocess.Popen, second: subprocess.Popen) -> tuple[int, str]:
    """The first one's exit code, and what both said (who notices first says it); the first must end by itself."""
    try:
        said = [first.communicate(timeout=200)[1]]
    finally:
        for process in (first, second):
            process.kill()
        said.append(second.communicate()[1])
    return first.returncode, "".join(said)


def same_as_undisturbed(folder: Path) -> bool:
    one, other = trained(folder), trained(folder.with_name("undisturbed"))
    weights, others = one.network.state_dict(), other.network.state_dict()
    return all(torch.allclose(weights[name], others[name], rtol=1e-4, atol=1e-5) for name in weights)


@pytest.mark.processes
def test_row_44_a_killed_rank(tmp_path):
    """A process that dies ends the others with exit code 1; one process goes on from the checkpoint to the same end."""
    code, said = what_becomes_of(*ranks(tmp_path / "run", "os.kill(os.getpid(), signal.SIGKILL)", SEGLENS_SILENCE=10))
    assert code == 1, said
    assert [path.name for path in (tmp_path / "run").glob("step_*")] == ["step_0000004"]
    assert same_as_undisturbed(tmp_path / "run")


@pytest.mark.processes
@pytest.mark.parametrize("halted", [0, 1])
def test_row_44_a_halted_rank(tmp_path, halted):
    """A process that shows no sign of life for SEGLENS_SILENCE (120 s) ends the others; the message names it."""
    processes = ranks(tmp_path / "run", "time.sleep(1)", SEGLENS_SILENCE=4)
    first, second = processes if halted == 1 else reversed(processes)
    try:
        while not list((tmp_path / "run").glob("step_*")):
            assert first.poll() is None
            time.sleep(0.05)
        os.kill(second.pid, signal.SIGSTOP)
        code, said = what_becomes_of(first, second)
    finally:
        second.kill()
    assert code == 1
    assert (
        f"{'process 1 has shown no sign of life' if halted else 'the first process has not answered'} for 4 s" in said
    )


@pytest.mark.processes
def test_row_44_a_hanging_rank(tmp_path):
    """Where no process gets on for SEGLENS_STANDSTILL (an hour) all end, and say how to allow a step more time."""
    code, said = what_becomes_of(*ranks(tmp_path / "run", "time.sleep(1000)", SEGLENS_STANDSTILL=15))
    assert code == 1
    assert "no process has got on for 15 s; if one step may take longer, set SEGLENS_STANDSTILL (in seconds)" in said


@pytest.mark.parametrize("given", ["", "soon", "0", "-3", "inf", "nan"])
def test_limits_must_be_seconds(monkeypatch, given):
    monkeypatch.setenv(SILENCE, given)
    with pytest.raises(ValueError, match=f"SEGLENS_SILENCE is '{given}'; give a number of seconds, at least 1"):
        seconds(SILENCE)
    assert seconds(STANDSTILL) == LIMITS[STANDSTILL]
