"""Settings of the C library for memory that a tensor has given back."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)
MAX_KEPT_BYTES = 2**30


def keep_freed_memory(most: int = MAX_KEPT_BYTES) -> bool:
    """Keep up to 1 GiB (``most``) that this process has freed, instead of giving it back to the kernel at once.

    A forward pass allocates and frees the same few megabytes for every activation. By default glibc returns each of
    them, and the kernel clears the pages again for the next one: a quarter of the time of a pass of a small network on
    a CPU. Arrays above 128 MiB (an eighth of it) are still given back. For a whole process, so a program decides it
    and a library does not: the command ``seglens`` calls it first thing. No bit of any result depends on it.

    Args:
        most: bytes; a server that waits for a person most of its time keeps less.

    Returns:
        Whether the C library took the settings; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # such as musl
        return False
    settings = {MMAP_THRESHOLD: most // 8, TRIM_THRESHOLD: most, TOP_PAD: most // 16}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())


def give_back_freed_memory() -> bool:
    """Give all that this process has freed back to the kernel, at once; whether the C library could."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).malloc_trim(0) == 1
    except (AttributeError, OSError):
        return False
