"""How the grids of consecutive slices are kept: as floats, or as int8 with a step for each token."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.artifacts import Artifact
from seglens.foreign.tensors import read_safetensors
from seglens.shapes import TokenGrid, flat, with_depth

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
MAX_LEVEL = 127
MAPPED_BYTES = 257 * 2**20
"""What is shuffled as a whole (256 MiB, and the files' heads) stays mapped."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Grids of consecutive slices.

    Attributes:
        values: ``[b d h w d_in]``, of one of `DTYPES`.
        step: with int8 values: what one level is worth at each token, float32 ``[b d h w 1]``; None: values are tokens.
    """

    values: Tensor
    step: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return self.values.shape[:4].numel()

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, as they are written and hashed: of slices (d = 1) without the axis of depth."""
        tokens = {"tokens": flat(self.values, 1)}
        return tokens if self.step is None else tokens | {"step": flat(self.step, 1)}

    def grids(self, rows: Tensor | slice) -> TokenGrid:
        """Whole samples ``[B d h w d_in]``, float32; a ``slice`` of float32 values is not copied."""
        return _floats(self.values[rows], None if self.step is None else self.step[rows])

    def tokens(self, rows: Tensor) -> Float[Tensor, "n d_in"]:
        """Tokens by their number in the shard, float32."""
        # index_select: half the time of indexing by brackets
        step = None if self.step is None else self.step.flatten(0, 3).index_select(0, rows)
        return _floats(self.values.flatten(0, 3).index_select(0, rows), step)

    def runs(self, length: int) -> Iterator[Float[Tensor, "n d_in"]]:
        """All tokens in order, ``length`` at a time, as floats; float32 values are not copied."""
        values = self.values.flatten(0, 3).split(length)
        if self.step is None:
            yield from values
        else:
            steps = self.step.flatten(0, 3).split(length)
            yield from (_floats(part, step) for part, step in zip(values, steps, strict=True))


@runtime_checkable
class Shards(Protocol):
    """Shards of a store in order, all but the last of the same length; a tuple of them is one."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, number: int, /) -> Shard:
        """One of them, which may be opened or computed now."""

    def __iter__(self) -> Iterator[Shard]:
        """All of them."""


class ShardFiles:
    """Shards on disk, mapped into memory: up to 256 MiB of them for good, more only while somebody holds one.

    A map that stays open keeps every page that was ever read in the process's memory. Opening one takes 0.1 ms, and
    then every page that is read a fault.

    Args:
        folder: where the files are.
        n_shards: how many.
        artifact: that they belong to, which compares a shard with its sha256 when it is first opened; None while they
            are being written.

    Raises:
        ValueError: a file is missing.
    """

    def __init__(self, folder: Path, n_shards: int, artifact: Artifact | None = None):
        self._artifact = artifact
        self._files = [folder / f"{shard_name(number)}.safetensors" for number in range(n_shards)]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise ValueError(f"{folder}: no file {', '.join(missing)}; remove the folder and extract again")
        small = sum(file.stat().st_size for file in self._files) <= MAPPED_BYTES
        self._mapped: dict[int, Shard] | None = {} if small else None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int, /) -> Shard:
        if self._mapped is None:
            return self._opened(number)
        if number not in self._mapped:
            self._mapped[number] = self._opened(number)
        return self._mapped[number]

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def _opened(self, number: int) -> Shard:
        file = self._files[number]
        tensors = read_safetensors(file if self._artifact is None else self._artifact.verified(file.name))
        step = tensors.get("step")
        return Shard(with_depth(tensors["tokens"], 5, 1), None if step is None else with_depth(step, 5, 1))


def shard_name(number: int) -> str:
    """File name (without ending) of a shard."""
    return f"shard_{number:05d}"


def checked_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A type that tokens can be kept in, given as it is or by its name.

    Raises:
        ValueError: another type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"tokens cannot be kept as {name}; choose {', '.join(DTYPES)}")
    return DTYPES[name]


def as_shard(grids: TokenGrid, dtype: torch.dtype) -> Shard:
    """Keep float32 grids in a type.

    int8: a token's 127 levels on each side of 0 reach its largest value, so what one token loses does not depend on
    any other.
    """
    if dtype != torch.int8:
        return Shard(grids.to(dtype))
    step = grids.abs().amax(-1, keepdim=True) / MAX_LEVEL
    # a token of zeros has step 0; whatever its levels are, they are worth 0
    levels = (grids / torch.where(step > 0, step, 1.0)).round_()
    return Shard(levels.to(torch.int8), step)


def _floats(values: Tensor, step: Tensor | None) -> Tensor:
    return values.float() if step is None else values.float() * step
