"""Sums and gathers over the processes of torch.distributed; no-ops in a single process."""

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where torch.distributed is not started."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_share(n: int) -> slice:
    """The contiguous rows of a global batch of n that this process works on; the shares follow in rank order."""
    rank, size = rank_and_size()
    return slice(n * rank // size, n * (rank + 1) // size)


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
