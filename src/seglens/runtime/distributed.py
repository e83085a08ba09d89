"""Several processes at one task (torchrun): who does what, and how they agree.

The first process decides and writes; the others follow. In a single process every function here is a no-op, except
that `launched` needs a launcher's environment.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, its default arguments would keep a group alive
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from seglens.runtime.signals import sign_of_life
from seglens.runtime.watchdog import SILENCE, STANDSTILL, Watchdog, seconds

MAX_WAIT = timedelta(days=30)
"""The others wait while the first works alone; that somebody is gone they learn by other means."""

LARGE = 2**16
"""Numbers in a tensor from which copying it into a common message costs more than a message of its own."""

T = TypeVar("T")
_alone = False


@contextmanager
def launched() -> Iterator[Watchdog]:
    """Join the processes that a launcher started: gloo for tensors on the CPU, NCCL for those on a GPU.

    The launcher gives RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment. Each process takes
    the GPU of its LOCAL_RANK as its ``"cuda"``. SEGLENS_SILENCE and SEGLENS_STANDSTILL change the seconds after which a
    process that is gone, or hangs, ends all (see `Watchdog`).
    """
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    limits = [seconds(name) for name in (SILENCE, STANDSTILL)]  # refused before anybody waits
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=MAX_WAIT)
    watchdog = Watchdog(store, rank, size, silence=limits[0], standstill=limits[1])
    try:
        yield watchdog
    finally:
        watchdog.leave()
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a torch.distributed group, and inside `alone`."""
    if not _alone and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main_process() -> bool:
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


def barrier() -> None:
    """Go on when all processes have come here."""
    if rank_and_size()[1] > 1:
        sign_of_life()
        dist.barrier()


def broadcast_from_main(compute: Callable[[], T]) -> T:
    """The first process's result, in every process; the others wait for it. It must be picklable."""
    rank, size = rank_and_size()
    if size == 1:
        return compute()
    sign_of_life()
    box: list[Any] = [None]
    if rank == 0:
        with alone():
            box = [compute()]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_object(own: Mapping[int, T]) -> list[T]:
    """Gather what all processes made, in order of its numbers; every number belongs to one process."""
    parts: list[Any] = [own]
    if rank_and_size()[1] > 1:
        sign_of_life()
        parts = [None] * rank_and_size()[1]
        dist.all_gather_object(parts, own)
    everything = {number: value for part in parts for number, value in part.items()}
    return [everything[number] for number in sorted(everything)]


def own_share(n: int) -> slice:
    """The contiguous rows of a global batch of n that this process works on; the shares follow in rank order."""
    rank, size = rank_and_size()
    return slice(n * rank // size, n * (rank + 1) // size)


def rank_range(n: int) -> range:
    """The numbers of 0..n-1 that are this process's, dealt in turn."""
    rank, size = rank_and_size()
    return range(rank, n, size)


def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes; all of one type.

    Large ones are summed where they are, the small ones travel in one message.
    """
    if rank_and_size()[1] == 1:
        return
    sign_of_life()
    large = [tensor for tensor in tensors if tensor.numel() >= LARGE and tensor.is_contiguous()]
    small = [tensor for tensor in tensors if tensor.numel() < LARGE or not tensor.is_contiguous()]
    underway = [dist.all_reduce(tensor, async_op=True) for tensor in large]
    if small:
        flat = torch.cat([tensor.reshape(-1) for tensor in small])
        dist.all_reduce(flat)
        for tensor, part in zip(small, flat.split([tensor.numel() for tensor in small]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for message in underway:
        message.wait()


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


def all_reduce(own: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow.

    Where a loss of the whole batch is made from such sums, every process holds the same loss; each must go back from
    its part of it, ``loss / size``. Then a parameter's gradients, summed over the processes, are those of the loss.
    """
    return own if rank_and_size()[1] == 1 else _AllReduce.apply(own)  # type: ignore[no-untyped-call]


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum what all processes' results ask of this process's part."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total
