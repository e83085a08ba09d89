"""Tokens in random order from slices that are read (or computed) in blocks, through a buffer of bounded size."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from seglens.shapes import TokenGrid, Tokens

BUFFER_BYTES = 256 * 2**20
"""Of float32 tokens in the buffer. What fits in it is shuffled as a whole."""
BLOCK_SLICES = 32
MIN_BLOCKS = 16


def fits_in_buffer(n_tokens: int, d_in: int) -> bool:
    """Whether so many tokens are shuffled as a whole."""
    return n_tokens * d_in * 4 <= BUFFER_BYTES


def slices_in_block(tokens_in_slice: int, d_in: int) -> int:
    """Consecutive slices that are read together: 32, fewer where not even 16 such blocks would fit in the buffer."""
    return max(1, min(BLOCK_SLICES, BUFFER_BYTES // (MIN_BLOCKS * tokens_in_slice * d_in * 4)))


def shuffled_batches(
    read: Callable[[int, int], TokenGrid],
    *,
    n_slices: int,
    tokens_in_slice: int,
    d_in: int,
    block: int,
    batch_size: int,
    generator: torch.Generator,
    first: int = 0,
) -> Iterator[Tokens]:
    """One pass over all tokens; every token comes once, the last batch may be smaller.

    The blocks are put in random order and dealt into groups of about equal size that fit in the buffer; a group is read
    and its tokens are given in random order. So a batch is a random sample of the slices of its group, and the groups
    are random samples of the blocks. In memory are one group, a batch and the order of the blocks.

    Args:
        read: grids ``[B d h w d_in]`` of the slices from start to stop.
        n_slices: how many there are.
        tokens_in_slice: d * h * w.
        d_in: width.
        block: consecutive slices that are read together.
        batch_size: tokens a batch.
        generator: decides the order.
        first: number of the batch to begin with; groups before it are not read.
    """
    starts = torch.arange(0, n_slices, block)
    blocks_in_group = max(1, BUFFER_BYTES // (block * tokens_in_slice * d_in * 4))
    n_groups = -(-len(starts) // blocks_in_group)
    order = starts[torch.randperm(len(starts), generator=generator)]
    # a seed a group: the order in a group that is skipped need not be drawn
    seeds = torch.randint(2**62, (n_groups,), generator=generator).tolist()
    buffer = torch.empty(-(-len(starts) // n_groups) * block * tokens_in_slice, d_in)
    skipped = first * batch_size
    rest = buffer[:0]
    for group, seed in zip(order.tensor_split(n_groups), seeds, strict=True):
        bounds = [(start, min(start + block, n_slices)) for start in group.tolist()]
        n_tokens = sum(stop - start for start, stop in bounds) * tokens_in_slice
        if skipped >= n_tokens:
            skipped -= n_tokens
            continue
        filled = 0
        for start, stop in bounds:
            tokens = read(start, stop).flatten(0, 3)
            buffer[filled : filled + len(tokens)] = tokens
            filled += len(tokens)
        places = torch.randperm(n_tokens, generator=torch.Generator().manual_seed(seed))[skipped:]
        skipped = 0
        for part in places.tensor_split(tuple(range(batch_size - len(rest), len(places), batch_size))):
            rest = _joined(rest, buffer.index_select(0, part))
            if len(rest) == batch_size:
                yield rest
                rest = buffer[:0]
    if len(rest):
        yield rest


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second]) if len(first) else second
