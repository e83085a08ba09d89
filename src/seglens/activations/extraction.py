"""From slices to an ActivationStore, on one process or several."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import activations, activations_at
from seglens.activations.moments import Chunks, ShardFacts, centre_of, energies_of, squared_error, sums_of, total_of
from seglens.activations.shards import Shard, ShardFiles, Shards, as_shard, checked_dtype, shard_name
from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore
from seglens.artifacts import Draft, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.slices import SliceSet
from seglens.runtime.distributed import barrier, broadcast_from_main, gather_object, is_main_process, rank_range
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk, require_memory
from seglens.segmenters.inference import BatchWork, each_batch, samples_at_once
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import TokenGrid


def extract(
    segmenter: Segmenter,
    slices: SliceSet,
    hookpoint: str,
    *,
    folder: Path | None = None,
    batch_size: int = 32,
    dtype: torch.dtype | str = torch.float32,
    progress: Progress = silent,
) -> ActivationStore:
    """Read the activation of every slice at a hookpoint; each pass stops there.

    In a torch.distributed group the shards are dealt to the processes, and every process returns the whole store. A
    batch holds the same slices whatever the number of processes, so the result is the same, bit for bit. All processes
    must see ``folder``. With a folder, one shard is in memory at a time (64 MiB as float32, or one batch).

    Args:
        segmenter: the network, on the device where it is to run.
        slices: what it sees; masks are not used.
        hookpoint: one of the segmenter's.
        folder: an artifact of kind ``"activations"`` is written there, shard by shard; None: kept in memory.
        batch_size: slices a pass.
        dtype: how tokens are kept: float32, bfloat16, float16 or int8 (a step for each token). What that loses is
            measured: ``quantisation_error`` of the store.
        progress: told of this process's slices.

    Raises:
        ValueError: unknown hookpoint or type, other sequences than the segmenter's, or an activation that is not finite
            (the slice is named, nothing is stored).

    Example:
        >>> store = extract(segmenter, slices, "stage3")
        >>> store.tokens(torch.arange(4)).shape
        torch.Size([4, 160])
    """
    folders = {hookpoint: folder}
    return extract_each(segmenter, slices, folders, batch_size=batch_size, dtype=dtype, progress=progress)[hookpoint]


def extract_each(
    segmenter: Segmenter,
    slices: SliceSet,
    folders: Mapping[str, Path | None],
    *,
    batch_size: int = 32,
    dtype: torch.dtype | str = torch.float32,
    progress: Progress = silent,
) -> dict[str, ActivationStore]:
    """`extract` at several hookpoints from one pass a batch, which stops at the deepest: the same stores, bit for bit.

    In a torch.distributed group each hookpoint's shards are dealt on their own, so a batch may be computed by several
    processes. A shard of each hookpoint is in memory at a time.

    Args:
        segmenter: the network, on the device where it is to run.
        slices: what it sees; masks are not used.
        folders: hookpoint to where its artifact is written; None: kept in memory.
        batch_size: slices a pass.
        dtype: how tokens are kept.
        progress: told of this process's slices.

    Returns:
        A store for each hookpoint.

    Raises:
        ValueError: as `extract`; then nothing is stored.
    """
    dtype = checked_dtype(dtype)
    forward = ForwardPass(segmenter, slices, *folders)

    def assembled(hookpoint: str, shards: Shards, facts: Sequence[ShardFacts]) -> ActivationStore:
        centre = centre_of(facts)
        chunks = Chunks()
        own = {number: energies_of(shards[number], chunks, centre) for number in rank_range(len(facts))}
        return ActivationStore.assembled(
            shards,
            facts,
            centre,
            total_of(gather_object(own)),
            hookpoint=hookpoint,
            segmenter_hash=segmenter.hash,
            slices_hash=slices.hash,
            index=slices.index,
        )

    inputs = {"segmenter": segmenter.hash, "slices": slices.hash, "dtype": str(dtype)}
    stores: dict[str, ActivationStore] = {}
    with ExitStack() as stack:
        new = {
            hookpoint: stack.enter_context(new_artifact(folder, kind=KIND, inputs=inputs | {"hookpoint": hookpoint}))
            for hookpoint, folder in folders.items()
            if folder is not None and is_main_process()
        }
        paths = broadcast_from_main(lambda: {hookpoint: draft.path for hookpoint, draft in new.items()})
        drafts = {hookpoint: Draft(path) for hookpoint, path in paths.items()}
        made = _shards_of(forward, batch_size=batch_size, dtype=dtype, progress=progress, drafts=drafts)
        for hookpoint in folders:
            every = gather_object(made[hookpoint])
            facts = [facts for _, facts in every]
            if hookpoint in drafts:
                stores[hookpoint] = assembled(hookpoint, ShardFiles(drafts[hookpoint].path, len(facts)), facts)
            else:
                shards = tuple(shard for shard, _ in every if shard is not None)
                stores[hookpoint] = assembled(hookpoint, shards, facts)
            if hookpoint in new:
                stores[hookpoint].write_head(new[hookpoint])
    barrier()  # the artifacts are there
    written = {hookpoint: folder for hookpoint, folder in folders.items() if folder is not None}
    return stores | {name: ActivationStore.read(read_artifact(folder, KIND)) for name, folder in written.items()}


def each_grid(
    segmenter: Segmenter, slices: SliceSet, hookpoint: str, *, batch_size: int = 32, progress: Progress = silent
) -> Iterator[tuple[Sequence[int], TokenGrid]]:
    """Rows and activation ``[B d h w d_in]`` of all slices in order, batch by batch, on the segmenter's device.

    Args:
        segmenter: the network; each pass stops at the hookpoint.
        slices: of its sequences; masks are not used.
        hookpoint: one of the segmenter's.
        batch_size: slices a pass; in halves once the device has no memory for a batch.
        progress: told after each batch, in slices.

    Raises:
        ValueError: unknown hookpoint, or other sequences than the segmenter's.
    """
    segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing, regions=True)
    return each_batch(
        lambda _rows, images: activations(segmenter, hookpoint, images),
        segmenter,
        slices,
        batch_size=batch_size,
        what="activations",
        progress=progress,
    )


class ForwardPass:
    """A segmenter on batches of one set of slices, up to the deepest of some hookpoints.

    Args:
        segmenter: on the device where it is to run.
        slices: what it sees.
        hookpoints: whose activations are read.

    Raises:
        ValueError: unknown hookpoint, other sequences than the segmenter's, or no slices.
    """

    def __init__(self, segmenter: Segmenter, slices: SliceSet, *hookpoints: str):
        segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing, regions=True)
        for hookpoint in hookpoints:
            segmenter.module_at(hookpoint)  # an unknown hookpoint is refused before anything is computed
        if len(slices) == 0:
            raise ValueError(f"{slices.name!r} has no slices; nothing to extract")
        self.segmenter, self.slices, self.hookpoints = segmenter, slices, hookpoints
        self._batches = BatchWork(
            lambda _rows, images: activations_at(segmenter, hookpoints, images), segmenter, slices, what="activations"
        )

    def __call__(self, rows: Sequence[int]) -> list[TokenGrid]:
        """The activations of some slices, each ``[B d h w d_in]``: on the segmenter's device, views where that does.

        Raises:
            NotEnoughMemoryError: the device has no memory for half of them.
        """
        parts = [grids for _, grids in self._batches.parts(rows)]
        return parts[0] if len(parts) == 1 else [torch.cat(own) for own in zip(*parts, strict=True)]

    def refuse_non_finite(self, hookpoint: str, shard: Shard, rows: Sequence[int]) -> None:
        """Name the slices whose tokens, as they are kept, are not finite.

        Args:
            hookpoint: where the tokens were read.
            shard: the tokens.
            rows: of its slices.

        Raises:
            ValueError: there are some.
        """
        grids, dtype = shard.grids(torch.arange(len(shard))), shard.values.dtype
        bad = (~grids.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            named = self.slices.index[[rows[number] for number in bad]]
            slices_named = ", ".join(f"{row['case']} slice {row['position']}" for row in named.to_dicts()[:8])
            raise ValueError(
                f"activations at {hookpoint!r} are not finite as {str(dtype).removeprefix('torch.')} in "
                f"{len(bad)} slices: {slices_named}; check these images, leave them out, or keep the tokens as float32"
            )


def batches_in_shard(elements: int) -> int:
    """Batches of so many numbers that make a shard."""
    return max(1, SHARD_BYTES // (elements * 4))


def _shards_of(
    forward: ForwardPass, *, batch_size: int, dtype: torch.dtype, progress: Progress, drafts: Mapping[str, Draft]
) -> dict[str, dict[int, tuple[Shard | None, ShardFacts]]]:
    """This process's shards of each hookpoint by number; written to its draft (and None here) where there is one."""
    batches = list(forward.slices.batches(samples_at_once(forward.segmenter, batch_size)))
    first = forward(batches[0] if is_main_process() else batches[0][:1])  # elsewhere only their shapes are needed
    _require_resources(forward, [grids[0].numel() for grids in first], dtype, drafts)
    chunks = Chunks()
    parts = [
        _OwnShards(forward, hookpoint, grids.shape[1:], batches, dtype, chunks, drafts.get(hookpoint))
        for hookpoint, grids in zip(forward.hookpoints, first, strict=True)
    ]
    needed = sorted({number for part in parts for number in part.batches})
    done, total = 0, sum(len(batches[number]) for number in needed)
    for number in needed:
        grids = first if number == 0 else forward(batches[number])
        for part, own in zip(parts, grids, strict=True):
            part.take(number, own)
        done += len(batches[number])
        progress(done, total)
    return {part.hookpoint: part.made for part in parts}


class _OwnShards:
    """This process's shards of one hookpoint, filled batch by batch."""

    def __init__(  # noqa: PLR0917 - one place calls it
        self,
        forward: ForwardPass,
        hookpoint: str,
        shape: Sequence[int],
        batches: Sequence[Sequence[int]],
        dtype: torch.dtype,
        chunks: Chunks,
        draft: Draft | None,
    ):
        self.hookpoint = hookpoint
        self.made: dict[int, tuple[Shard | None, ShardFacts]] = {}
        self._forward, self._shape, self._all, self._dtype, self._chunks = forward, shape, batches, dtype, chunks
        self._draft = draft
        self._per_shard = batches_in_shard(prod(shape) * len(batches[0]))
        numbers = range(len(batches))
        self.batches = {
            batch
            for number in rank_range(len(numbers[:: self._per_shard]))
            for batch in numbers[number * self._per_shard :][: self._per_shard]
        }
        self._buffer: Tensor | None = None
        self._filled = 0

    def take(self, number: int, grids: TokenGrid) -> None:
        """Keep a batch's tokens where it is part of an own shard; the shard is done with its last batch."""
        if number not in self.batches:
            return
        shard = number // self._per_shard
        own = self._all[shard * self._per_shard :][: self._per_shard]
        if self._buffer is None:
            self._buffer = torch.empty(sum(map(len, own)), *self._shape)
        # one copy brings them to the CPU, into float32 and into the order of tokens
        self._buffer[self._filled : self._filled + len(grids)] = grids
        self._filled += len(grids)
        if number == min((shard + 1) * self._per_shard, len(self._all)) - 1:
            self._finish(shard, self._buffer[: self._filled], [row for rows in own for row in rows])
            self._filled = 0
            if self._draft is None and self._dtype == torch.float32:  # else the next shard can use its memory
                self._buffer = None

    def _finish(self, number: int, grids: Float[Tensor, "b d h w d_in"], rows: Sequence[int]) -> None:
        shard, facts = kept_shard(grids, self._dtype, self._chunks)
        if not bool(facts.sums.isfinite().all()):
            self._forward.refuse_non_finite(self.hookpoint, shard, rows)
        if self._draft is not None:
            self._draft.save_tensors(shard_name(number), shard.tensors())
        self.made[number] = (shard if self._draft is None else None), facts


def _require_resources(
    forward: ForwardPass, elements: Sequence[int], dtype: torch.dtype, drafts: Mapping[str, Draft]
) -> None:
    """Refuse what does not fit on the disk, or in memory where nothing is written; the first process looks for all."""
    if not is_main_process():
        return
    written, kept = ([name for name in forward.hookpoints if (name in drafts) == on_disk] for on_disk in (True, False))
    sizes = dict(zip(forward.hookpoints, elements, strict=True))

    def needed(names: Sequence[str]) -> tuple[int, str]:
        n_bytes = len(forward.slices) * sum(sizes[name] for name in names) * dtype.itemsize
        return n_bytes, f"activations of {len(forward.slices)} slices at {', '.join(map(repr, names))}"

    if kept:
        n_bytes, what = needed(kept)
        require_memory(n_bytes, f"{what} (less as int8, or written to a folder)")
    if written:
        n_bytes, what = needed(written)
        require_disk(drafts[written[0]].path, n_bytes, f"{what} (less as int8, none with `store: false`)")


def kept_shard(grids: Float[Tensor, "b d h w d_in"], dtype: torch.dtype, chunks: Chunks) -> tuple[Shard, ShardFacts]:
    """Tokens as a shard of a type, and what is measured of it."""
    shard = as_shard(grids, dtype)
    lost = 0.0 if dtype == torch.float32 else squared_error(shard, grids, chunks)
    return shard, ShardFacts(hash_tensors(shard.tensors()), shard.n_tokens, sums_of(shard, chunks), lost)
