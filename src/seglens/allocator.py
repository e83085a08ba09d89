"""What the C library does with memory that a tensor has given back."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)
SETTINGS = {MMAP_THRESHOLD: 128 * 2**20, TRIM_THRESHOLD: 2**30, TOP_PAD: 64 * 2**20}


def keep_freed_memory() -> bool:
    """Keep up to 1 GiB that this process has freed, instead of giving it back to the kernel at once.

    A forward pass allocates and frees the same few megabytes for every activation. By default glibc returns each of
    them, and the kernel clears the pages again for the next one: a quarter of the time of a pass of a small network on
    a CPU. Arrays above 128 MiB are still given back. For a whole process, so a program decides it and a library does
    not: the command ``seglens`` calls it first thing. No bit of any result depends on it.

    Returns:
        Whether the C library took the settings; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # such as musl
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
