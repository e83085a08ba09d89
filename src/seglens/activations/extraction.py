"""From slices to an ActivationStore, on one process or several."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import activations
from seglens.activations.moments import Chunks, ShardFacts, centre_of, energies_of, squared_error, sums_of, total_of
from seglens.activations.shards import Shard, ShardFiles, Shards, as_shard, checked_dtype, shard_name
from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore
from seglens.artifacts import Draft, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.slices import SliceSet
from seglens.runtime.distributed import barrier, broadcast_from_main, gather_object, is_main_process, rank_range
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk, require_memory
from seglens.segmenters.inference import BatchWork, each_batch
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
    dtype = checked_dtype(dtype)
    forward = ForwardPass(segmenter, slices, hookpoint)

    def assembled(shards: Shards, facts: Sequence[ShardFacts]) -> ActivationStore:
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

    def own_shards(draft: Draft | None) -> dict[int, tuple[Shard | None, ShardFacts]]:
        return _shards_of(forward, batch_size=batch_size, dtype=dtype, progress=progress, draft=draft)

    if folder is None:
        made = gather_object(own_shards(None))
        return assembled(tuple(shard for shard, _ in made if shard is not None), [facts for _, facts in made])
    inputs = {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": hookpoint, "dtype": str(dtype)}
    with new_artifact(folder, kind=KIND, inputs=inputs) if is_main_process() else nullcontext() as first:
        draft = Draft(broadcast_from_main(lambda: first.path if first else folder))
        facts = [facts for _, facts in gather_object(own_shards(draft))]
        store = assembled(ShardFiles(draft.path, len(facts)), facts)
        if first:
            store.write_head(first)
    barrier()  # the artifact is there
    return ActivationStore.read(read_artifact(folder, KIND))


def each_grid(
    segmenter: Segmenter, slices: SliceSet, hookpoint: str, *, batch_size: int = 32, progress: Progress = silent
) -> Iterator[tuple[Sequence[int], TokenGrid]]:
    """Rows and activation ``[B h w d_in]`` of all slices in order, batch by batch, on the segmenter's device.

    Args:
        segmenter: the network; each pass stops at the hookpoint.
        slices: of its sequences; masks are not used.
        hookpoint: one of the segmenter's.
        batch_size: slices a pass; in halves once the device has no memory for a batch.
        progress: told after each batch, in slices.

    Raises:
        ValueError: unknown hookpoint, or other sequences than the segmenter's.
    """
    segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
    return each_batch(
        lambda _rows, images: activations(segmenter, hookpoint, images),
        segmenter,
        slices,
        batch_size=batch_size,
        what="activations",
        progress=progress,
    )


class ForwardPass:
    """A segmenter on batches of one set of slices, up to a hookpoint.

    Args:
        segmenter: on the device where it is to run.
        slices: what it sees.
        hookpoint: where it stops.

    Raises:
        ValueError: unknown hookpoint, other sequences than the segmenter's, or no slices.
    """

    def __init__(self, segmenter: Segmenter, slices: SliceSet, hookpoint: str):
        segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
        segmenter.module_at(hookpoint)  # an unknown hookpoint is refused before anything is computed
        if len(slices) == 0:
            raise ValueError(f"{slices.name!r} has no slices; nothing to extract")
        self.segmenter, self.slices, self.hookpoint = segmenter, slices, hookpoint
        self._batches = BatchWork(
            lambda _rows, images: activations(segmenter, hookpoint, images), segmenter, slices, what="activations"
        )

    def __call__(self, rows: Sequence[int]) -> TokenGrid:
        """The activation of some slices ``[B h w d_in]``: on the segmenter's device, a view where that is enough.

        Raises:
            NotEnoughMemoryError: the device has no memory for half of them.
        """
        parts = [grids for _, grids in self._batches.parts(rows)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def refuse_non_finite(self, shard: Shard, rows: Sequence[int]) -> None:
        """Name the slices whose tokens, as they are kept, are not finite.

        Args:
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
                f"activations at {self.hookpoint!r} are not finite as {str(dtype).removeprefix('torch.')} in "
                f"{len(bad)} slices: {slices_named}; check these images, leave them out, or keep the tokens as float32"
            )


def batches_in_shard(elements: int) -> int:
    """Batches of so many numbers that make a shard."""
    return max(1, SHARD_BYTES // (elements * 4))


def _shards_of(
    forward: ForwardPass, *, batch_size: int, dtype: torch.dtype, progress: Progress, draft: Draft | None
) -> dict[int, tuple[Shard | None, ShardFacts]]:
    """This process's shards by number; written to ``draft`` (and None here) where there is one."""
    batches = list(forward.slices.batches(batch_size))
    first = forward(batches[0] if is_main_process() else batches[0][:1])  # elsewhere only its shape is needed
    _require_resources(forward, first[0].numel(), dtype, draft)
    per_shard = batches_in_shard(first[0].numel() * len(batches[0]))
    starts = range(0, len(batches), per_shard)
    mine = rank_range(len(starts))
    total = sum(len(rows) for number in mine for rows in batches[starts[number] :][:per_shard])
    made: dict[int, tuple[Shard | None, ShardFacts]] = {}
    chunks = Chunks()
    done = 0
    buffer: Tensor | None = None

    for number in mine:
        own = batches[starts[number] :][:per_shard]
        n_slices = sum(map(len, own))
        if buffer is None or (draft is None and dtype == torch.float32):  # else the next shard can use its memory
            buffer = torch.empty(n_slices, *first.shape[1:])
        grids, filled = buffer[:n_slices], 0
        for rows in own:
            # one copy brings them to the CPU, into float32 and into the order of tokens
            grids[filled : filled + len(rows)] = first if rows[0] == 0 else forward(rows)
            filled += len(rows)
            done += len(rows)
            progress(done, total)
        shard, facts = _kept(grids, dtype, chunks)
        if not bool(facts.sums.isfinite().all()):
            forward.refuse_non_finite(shard, [row for rows in own for row in rows])
        if draft is not None:
            draft.save_tensors(shard_name(number), shard.tensors())
        made[number] = (shard if draft is None else None), facts
    return made


def _require_resources(forward: ForwardPass, elements: int, dtype: torch.dtype, draft: Draft | None) -> None:
    """Refuse what does not fit on the disk, or in memory where nothing is written; the first process looks for all."""
    if not is_main_process():
        return
    n_bytes = len(forward.slices) * elements * dtype.itemsize
    what = f"activations of {len(forward.slices)} slices at {forward.hookpoint!r}"
    if draft is None:
        require_memory(n_bytes, f"{what} (less as int8, or written to a folder)")
    else:
        require_disk(draft.path, n_bytes, f"{what} (less as int8, none with `store: false`)")


def _kept(grids: Float[Tensor, "b h w d_in"], dtype: torch.dtype, chunks: Chunks) -> tuple[Shard, ShardFacts]:
    shard = as_shard(grids, dtype)
    lost = 0.0 if dtype == torch.float32 else squared_error(shard, grids, chunks)
    return shard, ShardFacts(hash_tensors(shard.tensors()), shard.n_tokens, sums_of(shard, chunks), lost)
