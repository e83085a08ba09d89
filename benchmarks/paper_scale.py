"""The paper's own scale: one epoch of a dictionary over 19 million tokens on disk, and SegFormer-B4 at 256 x 256.

Each subject is timed once, so look at minutes, not at the third digit. The store takes 6 GB of the temporary folder for
every process that makes one, and is removed with it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject, Unavailable

if TYPE_CHECKING:
    from seglens.activations.store import ActivationStore
    from seglens.cohorts.slice_set import SliceSet
    from seglens.segmenters.segmenter import Segmenter

D_IN, EXPANSION, K, BATCH_SIZE, STEPS = 320, 16, 32, 4096, 4640
CALIBRATION_TOKENS = 200_000
SIDE = 16
N_SLICES = STEPS * BATCH_SIZE // SIDE**2
"""One epoch: 74,240 slices of 16 x 16 tokens."""
DIFFERENT_SHARDS = 8
"""That are drawn; the others hold the same tokens in another order of slices."""
SHARE = 0.05
"""Of the steps that are done where all of them would take too long."""
NETWORK_STEPS, SIZE, SLICES_A_STEP = 20, 256, 4
SUFFIX = f"({SHARE:.0%} of the steps)"

CASES: dict[str, dict[str, Any]] = {
    f"dictionary: {N_SLICES * SIDE**2:,} tokens, d{D_IN} m{EXPANSION * D_IN}": {"task": "dictionary"},
    f"SegFormer-B4: {NETWORK_STEPS} training steps of {SLICES_A_STEP} slices": {"task": "training"},
    f"SegFormer-B4: extraction of {NETWORK_STEPS * SLICES_A_STEP} slices": {"task": "extraction"},
}


def ours(case: Mapping[str, Any]) -> Repeat:
    """The task as the library does it."""
    return {"dictionary": partial(fitting, 1.0), "training": training, "extraction": extraction}[case["task"]]()


def passes_alone(case: Mapping[str, Any]) -> Repeat:
    """The network's passes, forwards and where it is trained backwards."""
    if case["task"] == "dictionary":
        raise Unavailable("of networks only")
    return {"training": bare_steps, "extraction": bare_passes}[case["task"]]()


def steps_alone(case: Mapping[str, Any]) -> Repeat:
    """A share of the dictionary's steps on batches that lie in memory: what is not store, order and calibration."""
    if case["task"] != "dictionary":
        raise Unavailable("of dictionaries only")
    from benchmarks.step import ours as step

    once = step({"d_in": D_IN, "m": EXPANSION * D_IN, "batch": BATCH_SIZE, "k": K, "dead": 0.0}, screen="auto")

    def repeat() -> object:
        for _ in range(round(SHARE * STEPS)):
            once()
        return None

    return repeat


def written_store(folder: Path) -> "ActivationStore":
    """A store on disk, int8, as `extract` writes it."""
    import polars as pl
    import torch

    from benchmarks.step_peers import tokens
    from seglens.activations.moments import Chunks, centre_of, energies_of, facts_of, total_of
    from seglens.activations.shards import Shard, ShardFiles, as_shard, shard_name
    from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore
    from seglens.artifacts import new_artifact, read_artifact

    in_shard = SHARD_BYTES // (4 * D_IN * SIDE**2)
    drawn = [
        as_shard(tokens(D_IN, in_shard * SIDE**2, seed=seed).view(-1, 1, SIDE, SIDE, D_IN), torch.int8)
        for seed in range(DIFFERENT_SHARDS)
    ]
    chunks, facts = Chunks(), []
    with new_artifact(folder, kind=KIND, inputs={}) as draft:
        for number, start in enumerate(range(0, N_SLICES, in_shard)):
            one = drawn[number % DIFFERENT_SHARDS]
            order = torch.randperm(in_shard, generator=torch.Generator().manual_seed(number))[: N_SLICES - start]
            shard = Shard(one.values[order], None if one.step is None else one.step[order])
            draft.save_tensors(shard_name(number), shard.tensors())
            facts.append(facts_of(shard, chunks))
        shards, centre = ShardFiles(draft.path, len(facts)), centre_of(facts)
        ActivationStore.assembled(
            shards, facts, centre, total_of(energies_of(shard, chunks, centre) for shard in shards),
            hookpoint="stage3", segmenter_hash="segmenter", slices_hash="slices",
            index=pl.DataFrame({"row": range(N_SLICES)}),
        ).write_head(draft)  # fmt: skip
    return ActivationStore.read(read_artifact(folder))


def fitting(share: float, store: "ActivationStore | None" = None) -> Repeat:
    """`fit_dictionary` over the store, with its calibration; the folder goes with the repeat."""
    from seglens.dictionaries.fitting import FitSettings, fit_dictionary

    folder = tempfile.TemporaryDirectory()
    store = store or written_store(Path(folder.name) / "store")
    settings = FitSettings(
        k=K,
        expansion=EXPANSION,
        steps=round(share * STEPS),
        batch_size=BATCH_SIZE,
        theta_tokens=round(share * CALIBRATION_TOKENS),
    )
    return lambda: (fit_dictionary(store, settings=settings, seed=0), folder)


def products(case: Mapping[str, Any]) -> Repeat:
    """Every token's score at every latent, for a share of the steps; no exact step in float32 does less."""
    if case["task"] != "dictionary":
        raise Unavailable("of dictionaries only")
    from benchmarks.step import one_product

    once = one_product({"d_in": D_IN, "m": EXPANSION * D_IN, "batch": BATCH_SIZE})

    def repeat() -> object:
        for _ in range(round(SHARE * STEPS)):
            once()
        return None

    return repeat


def two_processes(case: Mapping[str, Any]) -> Repeat:
    """A share of the fit in a gloo group of this process and one that it starts, a thread each."""
    if case["task"] != "dictionary":
        raise Unavailable("of dictionaries only")
    import torch

    from seglens.runtime.distributed import broadcast_from_main, launched

    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory()
    store = written_store(Path(folder.name) / "store")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    quiet = {"RANK": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}  # the first process leaves without a word
    subprocess.Popen([sys.executable, "-m", "benchmarks.paper_scale", f"{folder.name}/store"], env=os.environ | quiet)
    group = ExitStack()
    group.enter_context(launched())
    repeat = fitting(SHARE, store)

    def together() -> object:
        assert group  # kept as long as this function
        broadcast_from_main(lambda: "once more")
        return repeat(), folder

    return together


def second(store: Path) -> None:
    """The process that `two_processes` starts: takes part in every repeat until the first process ends."""
    import torch

    from seglens.activations.store import ActivationStore
    from seglens.artifacts import read_artifact
    from seglens.runtime.distributed import broadcast_from_main, launched

    torch.set_num_threads(1)
    with suppress(RuntimeError), launched():
        repeat = fitting(SHARE, ActivationStore.read(read_artifact(store)))
        while broadcast_from_main(lambda: None):
            repeat()


def noise() -> "SliceSet":
    """Slices of noise with two classes, as many as the network's cases see."""
    import polars as pl
    import torch

    from seglens.cohorts.slice_set import SliceSet

    n = NETWORK_STEPS * SLICES_A_STEP
    images = torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    masks = (images[:, 0] > 1).to(torch.uint8)
    index = pl.DataFrame({"case": [f"case{row}" for row in range(n)]})
    return SliceSet.from_tensors(
        images, masks, masks == 2, index, name="noise", sequences=("T1w",), labels={0: "background", 1: "tumour"}
    )


def network() -> "Segmenter":
    """SegFormer-B4 with random weights."""
    from seglens.segmenters.architectures import build_segmenter

    labels = {0: "background", 1: "tumour"}
    return build_segmenter("segformer-b4", sequences=("T1w",), labels=labels, size=SIZE, seed=0)


def training() -> Repeat:
    """`train_segmenter` with augmentation, checked losses and the optimiser."""
    from seglens.segmenters.training import TrainingSettings, train_segmenter

    slices, segmenter = noise(), network()
    settings = TrainingSettings(steps=NETWORK_STEPS, batch_size=SLICES_A_STEP)
    return lambda: train_segmenter(slices, init_from=segmenter, settings=settings, seed=0)


def bare_steps() -> Repeat:
    """Passes forwards and backwards at the same size, without augmentation and optimiser."""
    slices, segmenter = noise(), network()
    model = segmenter.network.train()

    def repeat() -> object:
        for step in range(NETWORK_STEPS):
            rows = list(range(step * SLICES_A_STEP, (step + 1) * SLICES_A_STEP))
            model.zero_grad(set_to_none=True)
            output = model(slices.images(rows).squeeze(2))
            getattr(output, "logits", output).mean().backward()
        return None

    return repeat


def extraction() -> Repeat:
    """`extract` at the last stage but one, int8, to disk."""
    from seglens.activations.extraction import extract

    slices, segmenter = noise(), network()

    def repeat() -> object:
        folder = Path(tempfile.mkdtemp())
        store = extract(segmenter, slices, "stage3", folder=folder / "store", batch_size=SLICES_A_STEP, dtype="int8")
        shutil.rmtree(folder)
        return store

    return repeat


def bare_passes() -> Repeat:
    """Passes that a hook ends at the same place."""
    import torch

    slices, segmenter = noise(), network()

    class Reached(Exception):  # noqa: N818 - no error: the pass has come where it was to come
        pass

    def stop(*_: object) -> None:
        raise Reached

    segmenter.network.get_submodule(segmenter.place("stage3").module).register_forward_hook(stop)

    def repeat() -> object:
        with torch.inference_mode():
            for step in range(NETWORK_STEPS):
                rows = list(range(step * SLICES_A_STEP, (step + 1) * SLICES_A_STEP))
                with suppress(Reached):
                    segmenter.network(slices.images(rows).squeeze(2))
        return None

    return repeat


BENCHMARK = Benchmark(
    name="paper_scale",
    title="The paper's own scale, two threads: an epoch of 4,640 steps over a store on disk; B4 at 256 x 256",
    cases=CASES,
    subjects=[
        Subject("seglens", "ours", ours),
        Subject(f"seglens, the steps alone {SUFFIX}", "other", steps_alone, share=SHARE),
        Subject(f"seglens, 2 processes {SUFFIX}", "other", two_processes, share=SHARE),
        Subject(f"floor: one encoder GEMM a step {SUFFIX}", "floor", products, share=SHARE),
        Subject("floor: the passes alone", "floor", passes_alone),
    ],
    repeats=1,
    threads=2,
)

if __name__ == "__main__":
    second(Path(sys.argv[1]))
