"""Threads of a stage: as many whatever is done beside it, for the bits of a result depend on their number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seglens.runtime.distributed import rank_and_size

MAX_JOBS = 4
"""Stages at once, unless asked for more: each worker holds about 1.5 GiB, and a study has few long chains."""


def stage_threads() -> int:
    """Threads of a stage on this machine: those of the process over `MAX_JOBS`; all of one that a launcher started."""
    threads = torch.get_num_threads()
    return threads if rank_and_size()[1] > 1 else max(1, threads // MAX_JOBS)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Inside, torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
