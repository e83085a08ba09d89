"""Consecutive samples of a set as tensors, in memory or each in a file of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from torch import Tensor

from seglens.artifacts import Artifact
from seglens.shapes import Extent, flat, with_depth

SHARD_BYTES = 64 * 2**20
OPEN_SHARDS = 4
"""Of a set on disk so many stay mapped: what was ever read of a mapped file counts as the process's memory."""


@dataclass(frozen=True)
class SliceShard:
    """Some consecutive samples: images [b C D H W] float32, masks [b D H W] uint8, brains [b D H W] bool."""

    images: Tensor
    masks: Tensor
    brains: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they are written: slices (D = 1) without the axis of depth."""
        return {"images": flat(self.images), "masks": flat(self.masks), "brains": flat(self.brains)}

    @classmethod
    def of(cls, images: Tensor, masks: Tensor, brains: Tensor) -> "SliceShard":
        """The shard of tensors as they are written."""
        return cls(with_depth(images, 5), with_depth(masks, 4), with_depth(brains, 4))


class SliceShardFiles:
    """The shards of a written set; the latest `OPEN_SHARDS` that were read stay mapped."""

    def __init__(self, artifact: Artifact, n_shards: int):
        self._n_shards = n_shards
        self._read = lru_cache(OPEN_SHARDS)(lambda number: SliceShard.of(**artifact.tensors(shard_name(number))))

    @property
    def n_open(self) -> int:
        """How many are mapped now."""
        return self._read.cache_info().currsize

    def __len__(self) -> int:
        return self._n_shards

    def __getitem__(self, number: int) -> SliceShard:
        return self._read(number)

    def __iter__(self) -> Iterator[SliceShard]:
        return (self[number] for number in range(len(self)))


def shard_name(number: int) -> str:
    """File name (without ending) of a shard."""
    return f"shard_{number:05d}"


def rows_per_shard(n_sequences: int, size: Extent) -> int:
    """Samples that fit in one shard."""
    return max(1, SHARD_BYTES // (prod(size) * (4 * n_sequences + 2)))
