"""Centre and scale of tokens in shards, summed in float64, one shard at a time.

Sums are kept a chunk of tokens each and added in order, so that they are the same bits whichever process sums a shard.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from seglens.activations.shards import Shard
from seglens.artifacts import hash_tensors

CHUNK_TOKENS = 2**16
CHUNK_ELEMENTS = 2**22


@dataclass(frozen=True, eq=False)
class ShardFacts:
    """Facts that a store needs of one of its shards.

    Attributes:
        hash: of its content.
        n_tokens: number of tokens.
        sums: sum of the tokens of each chunk.
        squared_error: what keeping the tokens in their type lost, ``sum((kept - token)^2)``.
    """

    hash: str
    n_tokens: int
    sums: Float64[Tensor, "chunks d_in"]
    squared_error: float = 0.0


class Chunks:
    """A shard's tokens, a chunk at a time as float64, all in one buffer: fresh memory takes longer than the sums."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.float64)

    def of(self, shard: Shard, centre: Tensor | None = None, transform: Tensor | None = None) -> Iterator[Tensor]:
        """Tokens, or ``(token - centre) @ transform``; each is overwritten by the next."""
        for part in shard.runs(max(1, min(CHUNK_TOKENS, CHUNK_ELEMENTS // shard.values.shape[-1]))):
            deviation = part if centre is None else part.float() - centre
            yield self._as_double(deviation if transform is None else deviation @ transform)

    def _as_double(self, part: Tensor) -> Tensor:
        if len(self._buffer) < part.numel():
            self._buffer = torch.empty(part.numel(), dtype=torch.float64)
        return self._buffer[: part.numel()].view(part.shape).copy_(part)


def sums_of(shard: Shard, chunks: Chunks) -> Float64[Tensor, "chunks d_in"]:
    """Sum of the tokens of each chunk."""
    return torch.stack([chunk.sum(0) for chunk in chunks.of(shard)])


def facts_of(shard: Shard, chunks: Chunks) -> ShardFacts:
    """Facts of a shard that keeps its tokens as they came."""
    return ShardFacts(hash_tensors(shard.tensors()), shard.n_tokens, sums_of(shard, chunks))


def squared_error(shard: Shard, grids: Tensor, chunks: Chunks) -> float:
    """``sum((kept - token)^2)`` of the float32 grids that a shard was made of."""
    error = 0.0
    tokens = iter(grids.flatten(0, 3).split(max(1, min(CHUNK_TOKENS, CHUNK_ELEMENTS // grids.shape[-1]))))
    for kept in chunks.of(shard):
        error += float(kept.sub_(next(tokens)).square_().sum())
    return error


def energies_of(
    shard: Shard, chunks: Chunks, centre: Float[Tensor, " d_in"], transform: Tensor | None = None
) -> list[float]:
    """``sum ||(h - centre) @ transform||^2`` of each chunk; no ``transform`` ``[d_in d_in]``: of the centred tokens."""
    return [float(chunk.square_().sum()) for chunk in chunks.of(shard, centre, transform)]


def centre_of(facts: Sequence[ShardFacts]) -> Float[Tensor, " d_in"]:
    """Mean token."""
    total = torch.zeros_like(facts[0].sums[0])
    for sums in (row for shard in facts for row in shard.sums):
        total += sums
    return (total / sum(shard.n_tokens for shard in facts)).float()


def total_of(energies: Iterable[Sequence[float]]) -> float:
    """The chunks' energies added one after the other (Python's own sum rounds otherwise from 3.12 on)."""
    total = 0.0
    for shard in energies:
        for energy in shard:
            total += energy
    return total


def scale_of(energy: float, n_tokens: int, d_in: int) -> float:
    """The s such that E||(h - centre) * s||^2 = d_in; 1 where all tokens are the same."""
    mean_energy = energy / n_tokens
    return (d_in / mean_energy) ** 0.5 if mean_energy > 0 else 1.0
