"""Activations without a store: computed when they are asked for, for cohorts whose tokens no disk holds."""

from collections.abc import Iterator
from math import prod

import torch

from seglens.activations.extraction import ForwardPass, batches_in_shard
from seglens.activations.moments import Chunks, ShardFacts, centre_of, energies_of, sums_of, total_of
from seglens.activations.shards import Shard
from seglens.activations.shuffling import fits_in_buffer, slices_in_block
from seglens.activations.store import ActivationStore
from seglens.cohorts.slices import SliceSet
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import grid_of


def live_activations(
    segmenter: Segmenter,
    slices: SliceSet,
    hookpoint: str,
    *,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> ActivationStore:
    """An ActivationStore that computes its tokens whenever they are read, and writes nothing.

    A dictionary that is fitted to it is bit for bit the one that is fitted to the float32 store of `extract` with the
    same batch size: order, centre and scale are the same. Its hash is another, that of segmenter, slices, hookpoint and
    batch size.

    Up to 256 MiB of tokens are computed once and kept. Of more, the network runs twice over all slices here (centre,
    then scale) and once in every pass that is made over the tokens, and in memory are a shuffling buffer of 256 MiB and
    one batch (here one shard). Where the tokens fit on a disk, `extract` is faster. In a torch.distributed group every
    process runs the network on all slices; with a store that work is dealt.

    Args:
        segmenter: the network, on the device where it is to run; it must not be trained while this is in use.
        slices: what it sees; masks are not used.
        hookpoint: one of the segmenter's.
        batch_size: slices a forward pass; None: 32, fewer where tokens are so many that blocks of 32 slices would not
            mix (`shuffling.slices_in_block`).
        progress: told of the slices of the passes for centre and scale.

    Raises:
        ValueError: unknown hookpoint, other sequences than the segmenter's, no slices, or an activation that is not
            finite (the slice is named).

    Example:
        >>> tokens = live_activations(segmenter, slices, "stage3")
        >>> dictionary = fit_dictionary(tokens, settings=FitSettings(k=32, steps=10))
    """
    forward = ForwardPass(segmenter, slices, hookpoint)
    first = forward([0])[0]
    tokens, d_in = prod(grid_of(first)), first.shape[-1]
    batch_size = min(batch_size or slices_in_block(tokens, d_in), len(slices))
    shards = _ComputedShards(forward, batch_size, keep=fits_in_buffer(len(slices) * tokens, d_in))
    per_shard = batches_in_shard(batch_size * tokens * d_in)
    chunks = Chunks()
    facts, energies = [], []
    for number, (computed, shard) in enumerate(shards.as_stored(per_shard)):
        facts.append(ShardFacts(f"{number}, computed by {batch_size}", shard.n_tokens, sums_of(shard, chunks)))
        if not bool(facts[-1].sums.isfinite().all()):
            forward.refuse_non_finite(hookpoint, shard, computed)
        progress(computed.stop, 2 * len(slices))
    centre = centre_of(facts)
    for computed, shard in shards.as_stored(per_shard):
        energies.append(energies_of(shard, chunks, centre))
        progress(len(slices) + computed.stop, 2 * len(slices))
    return ActivationStore.assembled(
        shards,
        facts,
        centre,
        total_of(energies),
        hookpoint=hookpoint,
        segmenter_hash=segmenter.hash,
        slices_hash=slices.hash,
        index=slices.index,
    )


class _ComputedShards:
    """A forward pass's batches as shards; all of them are kept, or the latest."""

    def __init__(self, forward: ForwardPass, batch_size: int, *, keep: bool):
        self._forward = forward
        every = range(len(forward.slices))
        self._batches = [every[start : start + batch_size] for start in every[::batch_size]]
        self._keep = keep
        self._cache: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int, /) -> Shard:
        if number not in self._cache:
            if not self._keep:
                self._cache.clear()
            (grids,) = self._forward(self._batches[number])
            self._cache[number] = Shard(grids.float().cpu().contiguous())
        return self._cache[number]

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def as_stored(self, per_shard: int) -> Iterator[tuple[range, Shard]]:
        """Slices and tokens of what `extract` would write as a shard: sums over the same chunks are the same bits."""
        for start in range(0, len(self), per_shard):
            numbers = range(len(self))[start : start + per_shard]
            slices = range(self._batches[start].start, self._batches[numbers[-1]].stop)
            yield slices, Shard(torch.cat([self[number].values for number in numbers]))
