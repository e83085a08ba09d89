"""A set of samples, built sample by sample: in memory, or shard by shard into a draft on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch

from seglens.artifacts import Draft, hash_tensors
from seglens.cohorts.blanking import BlankedLabel
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import (
    SliceSet,
    assemble,
    complete_index,
    write_head,
)
from seglens.cohorts.slice_shards import SliceShard, rows_per_shard, shard_name
from seglens.runtime.resources import require_disk
from seglens.shapes import Extent


class SliceSetWriter:
    """Takes samples and their rows of the index, in order; both ways give a set of the same hash.

    Args:
        n_sequences: channels of each sample.
        size: slices, rows and columns of each.
        draft: of kind ``slices``; None keeps all in memory.
    """

    def __init__(self, n_sequences: int, size: Extent, draft: Draft | None):
        self._draft = draft
        self._step = rows_per_shard(n_sequences, size)
        self._waiting: list[SliceShard] = []
        self._shards: list[SliceShard] = []
        self._hashes: list[str] = []
        self._index: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._index)

    def add(self, samples: SliceShard, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take samples, and one row of the index for each."""
        self._waiting.append(samples)
        self._index += map(dict, rows)

    def require_disk(self, times: int, what: str) -> None:
        """Refuse a disk that does not hold so many times what is waiting.

        Raises:
            InsufficientResourcesError: with what is free.
        """
        if self._draft is not None:
            n_bytes = sum(tensor.nbytes for shard in self._waiting for tensor in shard.tensors().values())
            require_disk(self._draft.path, times * n_bytes, what)

    def close_full(self) -> None:
        """Close the shards that are full."""
        while sum(map(len, self._waiting)) >= self._step:
            shard, self._waiting = _take(self._waiting, self._step)
            self._close(shard)

    def finish(
        self,
        *,
        name: str,
        sequences: tuple[str, ...],
        labels: Mapping[int, str],
        preprocessing: Preprocessing | None = None,
        blanked: Sequence[BlankedLabel] = (),
        labelled: bool = True,
    ) -> SliceSet:
        """Close the last shard and give the set; arguments as the attributes of `SliceSet`."""
        self.close_full()
        if self._waiting:
            self._close(_take(self._waiting, sum(map(len, self._waiting)))[0])
            self._waiting = []
        slices = assemble(
            self._shards,
            complete_index(pl.DataFrame(self._index)),
            name=name,
            sequences=sequences,
            labels=labels,
            preprocessing=preprocessing,
            blanked=blanked,
            labelled=labelled,
            shard_hashes=self._hashes,
        )
        if self._draft is not None:
            write_head(self._draft, slices, len(self._hashes))
        return slices

    def _close(self, shard: SliceShard) -> None:
        self._hashes.append(hash_tensors(shard.tensors()))
        if self._draft is None:
            self._shards.append(shard)
        else:
            self._draft.save_tensors(shard_name(len(self._hashes) - 1), shard.tensors())


def _take(waiting: Sequence[SliceShard], n: int) -> tuple[SliceShard, list[SliceShard]]:
    """The first ``n`` samples as one shard, and what is left."""
    whole = SliceShard(
        torch.cat([shard.images for shard in waiting]),
        torch.cat([shard.masks for shard in waiting]),
        torch.cat([shard.brains for shard in waiting]),
    )
    first = SliceShard(whole.images[:n], whole.masks[:n], whole.brains[:n])
    rest = SliceShard(whole.images[n:].clone(), whole.masks[n:].clone(), whole.brains[n:].clone())
    return first, [rest] if len(rest) else []
