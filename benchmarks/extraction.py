"""Extraction against the bare forward pass to the hookpoint, and its growth with the cohort."""

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject

if TYPE_CHECKING:
    from seglens.cohorts.slice_set import SliceSet
    from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "tumour"}
BATCH_SIZE = 32
PLACES = {
    "segformer-b0": {128: ("stage2", "stage3"), 256: ("stage2", "stage3")},
    "unet": {128: ("encoder1", "encoder2", "encoder3", "encoder4")},
}
SLICES = 64


def bare(case: Mapping[str, Any]) -> Repeat:
    """The network up to the hookpoint on the same batches, its output thrown away; all images are there beforehand."""
    import torch

    segmenter, slices = model(case), cohort(case)
    batches = [slices.images(rows)[:, :, 0] for rows in slices.batches(BATCH_SIZE)]

    class Reached(Exception):  # noqa: N818 - not an error
        pass

    def stop(*_: object) -> None:
        raise Reached

    segmenter.module_at(case["hookpoint"]).register_forward_hook(stop)

    def repeat() -> object:
        with torch.no_grad():
            for images in batches:
                try:
                    segmenter.network(images)
                except Reached:
                    continue
        return None

    repeat()
    return repeat


def in_memory(case: Mapping[str, Any]) -> Repeat:
    """`extract` into memory, identity, centre and scale included."""
    from seglens.activations.extraction import extract

    segmenter, slices = model(case), cohort(case)
    extract(segmenter, slices.select(range(BATCH_SIZE)), case["hookpoint"])
    return lambda: extract(segmenter, slices, case["hookpoint"], batch_size=BATCH_SIZE)


def to_disk(case: Mapping[str, Any]) -> Repeat:
    """`extract` from slices on disk into an artifact on disk, manifest and flush included."""
    from seglens.activations import extraction
    from seglens.activations.extraction import extract
    from seglens.artifacts import new_artifact, read_artifact
    from seglens.cohorts import slice_shards
    from seglens.cohorts.slice_set import SliceSet

    if "shard_mib" in case:
        extraction.SHARD_BYTES = slice_shards.SHARD_BYTES = case["shard_mib"] * 2**20
    folder = tempfile.TemporaryDirectory()
    with new_artifact(Path(folder.name) / "slices", kind="slices", inputs={}) as draft:
        cohort(case).write(draft)
    segmenter, slices = model(case), SliceSet.read(read_artifact(Path(folder.name) / "slices"))
    extract(segmenter, slices.select(range(BATCH_SIZE)), case["hookpoint"])
    numbers = itertools.count()

    def repeat() -> object:
        out = Path(folder.name) / f"store{next(numbers)}"
        return extract(segmenter, slices, case["hookpoint"], folder=out, batch_size=BATCH_SIZE)

    return repeat


def load() -> None:
    """Both networks' libraries, and what extraction uses."""
    import monai.networks.nets  # noqa: F401
    import polars  # noqa: F401
    import safetensors.torch  # noqa: F401

    import seglens.activations.extraction
    import seglens.segmenters.segformer  # noqa: F401


def model(case: Mapping[str, Any]) -> "Segmenter":
    from seglens.segmenters.architectures import build_segmenter

    segmenter = build_segmenter(case["architecture"], sequences=("T1c",), labels=LABELS, size=case["size"])
    assert segmenter.hash  # computed once a model, and kept
    return segmenter


def cohort(case: Mapping[str, Any]) -> "SliceSet":
    import polars as pl
    import torch

    from seglens.cohorts.slice_set import SliceSet

    n, size = case["slices"], case["size"]
    images = torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"case{row // 10}" for row in range(n)]})
    return SliceSet.from_tensors(images, masks, masks == 0, index, name="noise", sequences=("T1c",), labels=LABELS)


BENCHMARK = Benchmark(
    name="extraction",
    title="Activations of a cohort at one hookpoint, from slices to a store with its identity, centre and scale.",
    cases={
        f"{architecture} {size} px {hookpoint}": {
            "architecture": architecture,
            "size": size,
            "hookpoint": hookpoint,
            "slices": SLICES,
        }
        for architecture, sizes in PLACES.items()
        for size, hookpoints in sizes.items()
        for hookpoint in hookpoints
    }
    | {
        f"{64 * times} slices": {
            "architecture": "segformer-b0",
            "size": 128,
            "hookpoint": "stage2",
            "slices": 64 * times,
            "shard_mib": 2,  # small enough that the smallest case has several: stands for 32 times as many slices
        }
        for times in (1, 2, 4, 8)
    },
    subjects=[
        Subject("seglens, in memory", "ours", in_memory, load=load),
        Subject("seglens, to disk", "ours", to_disk, load=load),
        Subject("floor: bare forward", "floor", bare, load=load),
    ],
    repeats=5,
    growth={"slices": [f"{64 * times} slices" for times in (1, 2, 4, 8)]},
)
