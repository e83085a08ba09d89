"""Two processes at one task: extraction and fitting against one process, each process with one thread.

What counts here is wall time: the speed-up is that of one process over that of two. CPU time is the first process's
own. The worker is the first process and starts the second, which does every repeat with it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.framework import Benchmark, Repeat, Subject

CASES: dict[str, dict[str, Any]] = {
    "extraction": {"task": "extraction", "slices": 192, "size": 128, "batch": 16, "stage": "stage3"},
    "fitting d320 m5120": {"task": "fitting", "d_in": 320, "expansion": 16, "steps": 12, "batch": 4096, "k": 32},
    "fitting d160 m2560": {"task": "fitting", "d_in": 160, "expansion": 16, "steps": 24, "batch": 4096, "k": 32},
}


def extraction(case: Mapping[str, Any]) -> Repeat:
    """SegFormer-b0 up to a stage, into a store on disk; a shard a batch, as a large cohort has many of them."""
    import polars as pl
    import torch

    from seglens.activations import extraction as module
    from seglens.cohorts.slice_set import SliceSet
    from seglens.runtime.distributed import barrier, broadcast_from_main, is_main_process
    from seglens.segmenters.architectures import build_segmenter

    n, size = case["slices"], case["size"]
    labels = {0: "background", 1: "tumour"}
    images = torch.randn(n, 2, size, size, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"case{row}" for row in range(n)]})
    sequences = ("T1c", "FLAIR")
    slices = SliceSet.from_tensors(images, masks, masks == 0, index, name="noise", sequences=sequences, labels=labels)
    segmenter = build_segmenter("segformer-b0", sequences=sequences, labels=labels, size=size, seed=0)
    module.SHARD_BYTES = 1

    def repeat() -> object:
        folder = broadcast_from_main(lambda: Path(tempfile.mkdtemp()))
        store = module.extract(segmenter, slices, case["stage"], folder=folder / "store", batch_size=case["batch"])
        barrier()
        if is_main_process():
            shutil.rmtree(folder)
        return store

    return repeat


def fitting(case: Mapping[str, Any]) -> Repeat:
    """`fit_dictionary` on a store in memory; its calibration sees as many tokens a step as in a fit of 1000 steps."""
    from benchmarks.step_peers import tokens
    from seglens.activations.store import ActivationStore
    from seglens.dictionaries.fitting import FitSettings, fit_dictionary

    d_in, side = case["d_in"], 16
    n_slices = 8 * case["batch"] // side**2
    store = ActivationStore.from_grids(
        [tokens(d_in, n_slices * side**2).view(n_slices, side, side, d_in)],
        hookpoint="tokens",
        segmenter_hash="none",
        slices_hash="none",
    )
    settings = FitSettings(
        k=case["k"],
        expansion=case["expansion"],
        steps=case["steps"],
        batch_size=case["batch"],
        theta_tokens=200 * case["steps"],
    )
    return lambda: fit_dictionary(store, settings=settings, seed=0)


def one_process(case: Mapping[str, Any]) -> Repeat:
    """The task as it is."""
    import torch

    torch.set_num_threads(1)
    repeat: Repeat = {"extraction": extraction, "fitting": fitting}[case["task"]](case)
    repeat()
    return repeat


def two_processes(case: Mapping[str, Any]) -> Repeat:
    """The same in a gloo group of this process and one that it starts."""
    from seglens.runtime.distributed import broadcast_from_main, launched

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    name = next(name for name, own in CASES.items() if own == case)
    quiet = {"RANK": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}  # the first process leaves without a word
    subprocess.Popen([sys.executable, "-m", "benchmarks.processes", name], env=os.environ | quiet)
    group = ExitStack()
    group.enter_context(launched())
    repeat = one_process(case)

    def together() -> object:
        assert group  # kept as long as this function
        broadcast_from_main(lambda: "once more")
        return repeat()

    return together


def second(name: str) -> None:
    """The process that `two_processes` starts: takes part in every repeat until the first process ends."""
    from seglens.runtime.distributed import broadcast_from_main, launched

    with suppress(RuntimeError), launched():
        repeat = one_process(CASES[name])
        while broadcast_from_main(lambda: None):
            repeat()


BENCHMARK = Benchmark(
    name="processes",
    title="One task by two processes and by one, a thread each (look at wall time)",
    cases=CASES,
    subjects=[
        Subject("seglens, 2 processes", "ours", two_processes),
        Subject("seglens, 1 process", "other", one_process),
        Subject("floor: half of 1 process", "floor", one_process, share=2.0),
    ],
    repeats=5,
)

if __name__ == "__main__":
    second(sys.argv[1])
