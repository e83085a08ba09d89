"""Tokens on disk: random rows, and shuffled passes over all of them.

What a repeat returns holds the folder: a temporary one is removed when nobody holds it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

D_IN = 160
BATCH_SIZE = 4096
TOKENS_IN_SLICE = 256
CHUNK_TOKENS = 4096
"""Of zarr: 2.5 MiB a chunk, within the 1 to 10 MiB that its documentation advises."""
MIN_SLICES = 200_000 // TOKENS_IN_SLICE
BUFFER_CHUNKS = 100
"""That zarr mixes at a time: as much memory as seglens takes."""


def seglens_store(case: Mapping[str, Any]) -> Repeat:
    """An ActivationStore as `extract` writes it."""
    import polars as pl
    import torch

    from seglens.activations.moments import Chunks, centre_of, energies_of, facts_of, total_of
    from seglens.activations.shards import Shard, ShardFiles, shard_name
    from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore
    from seglens.artifacts import new_artifact, read_artifact

    folder, chunks, facts = tempfile.TemporaryDirectory(), Chunks(), []
    with new_artifact(Path(folder.name) / "store", kind=KIND, inputs={}) as draft:
        for part in tokens_of(case, SHARD_BYTES // (4 * D_IN * TOKENS_IN_SLICE) * TOKENS_IN_SLICE):
            shard = Shard(torch.from_numpy(part).view(-1, 16, 16, D_IN))
            draft.save_tensors(shard_name(len(facts)), shard.tensors())
            facts.append(facts_of(shard, chunks))
        shards, centre = ShardFiles(draft.path, len(facts)), centre_of(facts)
        ActivationStore.assembled(
            shards, facts, centre, total_of(energies_of(shard, chunks, centre) for shard in shards),
            hookpoint="stage3", segmenter_hash="segmenter", slices_hash="slices",
            index=pl.DataFrame({"row": range(case["slices"])}),
        ).write_head(draft)  # fmt: skip
    store = ActivationStore.read(read_artifact(Path(folder.name) / "store"))
    generator = torch.Generator().manual_seed(0)

    def rows() -> object:
        return store.tokens(torch.randint(store.n_tokens, (BATCH_SIZE,), generator=generator)), folder

    def epoch() -> object:
        return sum(len(batch) for batch in store.random_batches(BATCH_SIZE, generator)), folder

    return rows if case["read"] == "rows" else epoch


def load_seglens() -> None:
    """What `seglens_store` uses."""
    import polars  # noqa: F401
    import safetensors.torch  # noqa: F401

    import seglens.activations.store  # noqa: F401


def load_zarr() -> None:
    """What `zarr_array` uses."""
    import zarr  # noqa: F401


def npy_memmap(case: Mapping[str, Any]) -> Repeat:
    """One .npy file, mapped; a pass is a permutation of all its rows."""
    import numpy as np

    folder, array = written_npy(case)
    generator = np.random.default_rng(0)

    def rows() -> object:
        return array[generator.integers(0, len(array), BATCH_SIZE)], folder

    def epoch() -> object:
        order = generator.permutation(len(array))
        return sum(len(array[order[start : start + BATCH_SIZE]]) for start in range(0, len(array), BATCH_SIZE)), folder

    return rows if case["read"] == "rows" else epoch


def zarr_array(case: Mapping[str, Any]) -> Repeat:
    """An uncompressed array of chunks; a pass reads chunks in random order and shuffles 256 MiB of them at a time."""
    import numpy as np
    import zarr

    folder = tempfile.TemporaryDirectory()
    n = case["slices"] * TOKENS_IN_SLICE
    array = zarr.create_array(
        store=folder.name, shape=(n, D_IN), chunks=(CHUNK_TOKENS, D_IN), dtype="float32", compressors=None
    )
    start = 0
    for part in tokens_of(case, CHUNK_TOKENS):
        array[start : start + len(part)] = part
        start += len(part)
    generator = np.random.default_rng(0)

    def rows() -> object:
        return array.oindex[generator.integers(0, n, BATCH_SIZE)], folder

    def epoch() -> object:
        starts = generator.permutation(range(0, n, CHUNK_TOKENS))
        seen = 0
        for group in np.array_split(starts, -(-len(starts) // BUFFER_CHUNKS)):
            buffer = np.concatenate([array[start : start + CHUNK_TOKENS] for start in group])
            order = generator.permutation(len(buffer))
            seen += sum(len(buffer[order[first : first + BATCH_SIZE]]) for first in range(0, len(order), BATCH_SIZE))
        return seen, folder

    return rows if case["read"] == "rows" else epoch


def bytes_alone(case: Mapping[str, Any]) -> Repeat:
    """Rows: gathered from an array in memory. A pass: the file read once from start to end, into the same 4 MiB."""
    import numpy as np

    folder, array = written_npy(case)
    if case["read"] == "rows":
        inside, generator = np.array(array), np.random.default_rng(0)
        out = np.empty((BATCH_SIZE, D_IN), np.float32)
        return lambda: np.take(inside, generator.integers(0, len(inside), BATCH_SIZE), axis=0, out=out)
    del array
    buffer = bytearray(4 * 2**20)

    def read() -> object:
        with (Path(folder.name) / "tokens.npy").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return None

    return read


def written_npy(case: Mapping[str, Any]) -> "tuple[tempfile.TemporaryDirectory[str], NDArray[np.float32]]":
    """The folder of a .npy file, which goes with it, and the file mapped."""
    import numpy as np

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "tokens.npy"
    shape = (case["slices"] * TOKENS_IN_SLICE, D_IN)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in tokens_of(case, BATCH_SIZE):
            file.write(part.tobytes())
    return folder, np.load(path, mmap_mode="r")


def tokens_of(case: Mapping[str, Any], length: int) -> "Iterator[NDArray[np.float32]]":
    """Noise, ``length`` tokens at a time."""
    import numpy as np

    n = case["slices"] * TOKENS_IN_SLICE
    for start in range(0, n, length):
        yield np.random.default_rng([0, start]).standard_normal((min(length, n - start), D_IN), np.float32)


BENCHMARK = Benchmark(
    name="store",
    title="Tokens of 160 channels on disk, in the page cache: 4096 random rows, and a shuffled pass over all of them.",
    cases={
        "4096 rows of 200k": {"slices": MIN_SLICES, "read": "rows"},
        "4096 rows of 1.6M": {"slices": 8 * MIN_SLICES, "read": "rows"},
    }
    | {f"pass over {200 * times}k": {"slices": times * MIN_SLICES, "read": "epoch"} for times in (1, 2, 4, 8)},
    subjects=[
        Subject("seglens", "ours", seglens_store, load=load_seglens),
        Subject("npy memmap", "peer", npy_memmap),
        Subject("zarr 3", "peer", zarr_array, environment="zarr", load=load_zarr),
        Subject("floor: the bytes alone", "floor", bytes_alone),
    ],
    repeats=5,
    growth={"tokens": [f"pass over {200 * times}k" for times in (1, 2, 4, 8)]},
)
