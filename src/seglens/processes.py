"""Several processes at one task (torchrun, ``accelerate launch``): who does what, and how they agree.

The first process decides and writes; all others follow. Every function here is a no-op in a single process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")
_alone = False


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a torch.distributed group, and inside `alone`."""
    if not _alone and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process decides and writes."""
    return rank_and_size()[0] == 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works as if there were no other: nothing is dealt and nobody is waited for."""
    global _alone  # noqa: PLW0603 - the group itself is state of the process
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def wait() -> None:
    """Go on when all processes have come here."""
    if rank_and_size()[1] > 1:
        dist.barrier()


def from_first(compute: Callable[[], T]) -> T:
    """The first process's result, in every process; the others wait for it. It must be picklable."""
    rank, size = rank_and_size()
    if size == 1:
        return compute()
    box: list[Any] = [None]
    if rank == 0:
        with alone():
            box = [compute()]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(own: Mapping[int, T]) -> list[T]:
    """What all processes made, in order of its numbers; every number belongs to one process."""
    parts: list[Any] = [own]
    if rank_and_size()[1] > 1:
        parts = [None] * rank_and_size()[1]
        dist.all_gather_object(parts, own)
    everything = {number: value for part in parts for number, value in part.items()}
    return [everything[number] for number in sorted(everything)]


def own_share(n: int) -> slice:
    """The contiguous rows of a global batch of n that this process works on; the shares follow in rank order."""
    rank, size = rank_and_size()
    return slice(n * rank // size, n * (rank + 1) // size)


def dealt(n: int) -> range:
    """The numbers of 0..n-1 that are this process's, dealt in turn."""
    rank, size = rank_and_size()
    return range(rank, n, size)


def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one message; all of one type."""
    if rank_and_size()[1] == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather_over_ranks(values: Shaped[Tensor, " n"]) -> list[Tensor]:
    """Every process's values, in rank order; lengths may differ."""
    size = rank_and_size()[1]
    if size == 1:
        return [values]
    lengths = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(values)], device=values.device))
    longest = int(torch.cat(lengths).max())
    padded = values.new_zeros(longest)
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]
