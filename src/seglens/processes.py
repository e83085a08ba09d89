"""Several processes at one task (torchrun, ``accelerate launch``): who does what, and how they agree.

The first process decides and writes; the others follow. In a single process every function here is a no-op, except
that `launched` needs a launcher's environment.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401 - imported later, its default arguments would keep a group alive
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

POLL_SECONDS = 0.5
"""How often a process asks whether another has failed."""
PATIENCE_SECONDS = 10.0
"""How long a process that failed stays, so that the others learn of it."""
LONGEST_WAIT = timedelta(days=30)
"""The others wait while the first works alone; that somebody is gone they learn by other means."""

LARGE = 2**16
"""Numbers in a tensor from which copying it into a common message costs more than a message of its own."""

T = TypeVar("T")
_alone = False


class Team:
    """The processes that a launcher started for one command.

    A thread asks every `POLL_SECONDS` whether another process has failed and then ends this one with the same exit
    code, whatever it is waiting for or computing.

    Args:
        store: shared by the processes.
        rank: this process's number.
        size: how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int):
        self.rank = rank
        self._size = size
        self._store = PrefixStore("seglens", store)
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def fail(self, code: int) -> tuple[int, bool]:
        """Tell the others that this process has failed, and wait until they have ended, `PATIENCE_SECONDS` at most.

        Returns:
            The exit code of the process that failed first, and whether that is this one.
        """
        self.leave()
        mine = json.dumps([code, self.rank])
        told = self._store.compare_set("failed", "", mine).decode()
        first = told == mine
        self._see_off(counting_self=not first)
        return int(json.loads(told)[0]), first

    def leave(self) -> None:
        """Stop watching the others."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            try:
                if not self._store.check(["failed"]):
                    continue
                code = int(json.loads(self._store.get("failed"))[0])
            except RuntimeError:  # the store is gone, and with it the first process
                if self._over.wait(POLL_SECONDS):
                    return
                code = 1
            self._see_off(counting_self=True)
            os._exit(code)

    def _see_off(self, *, counting_self: bool) -> None:
        """Wait until all but the process that failed know of it, or the store, which the first process keeps, is gone.

        So neither the message nor the store leaves before everybody has read it.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            known = self._store.add("known", int(counting_self))
            while known < self._size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 5)
                known = self._store.add("known", 0)
        except RuntimeError:
            return


@contextmanager
def launched() -> Iterator[Team]:
    """Join the processes that a launcher started: gloo for tensors on the CPU, NCCL for those on a GPU.

    The launcher gives RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment. Each process takes
    the GPU of its LOCAL_RANK as its ``"cuda"``.
    """
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    team = Team(store, rank, size)
    try:
        yield team
    finally:
        team.leave()
        dist.destroy_process_group()


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
    """Replace each tensor by its sum over all processes; all of one type.

    Large ones are summed where they are, the small ones travel in one message.
    """
    if rank_and_size()[1] == 1:
        return
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


def summed(own: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow.

    Where a loss of the whole batch is made from such sums, every process holds the same loss; each must go back from
    its part of it, ``loss / size``. Then a parameter's gradients, summed over the processes, are those of the loss.
    """
    return own if rank_and_size()[1] == 1 else _Summed.apply(own)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """What all processes' results ask of this process's part."""
        total = gradient.clone()
        dist.all_reduce(total)
        return total
