"""Whether there is enough disk and memory for what is about to start; refused with figures where there is not."""

import shutil
import sys
from pathlib import Path

import psutil

DISK_SPARE_BYTES = 2**25
"""Left for the tables, checkpoints' heads and logs that nobody counts."""
CONTROL_GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class InsufficientResourcesError(ValueError):
    """More memory or disk is needed than there is."""


def require_disk(path: Path, n_bytes: int, what: str) -> None:
    """Refuse to start what the disk could not hold.

    Args:
        path: what is to be written, there or not.
        n_bytes: an estimate of its size.
        what: what is to be written, for the message.

    Raises:
        InsufficientResourcesError: with both figures.
    """
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if n_bytes + DISK_SPARE_BYTES > free:
        raise InsufficientResourcesError(
            f"{what}: about {readable_bytes(n_bytes + DISK_SPARE_BYTES)} of disk are needed, "
            f"{readable_bytes(free)} are free in {folder}; "
            "make room or give another folder"
        )


def require_memory(n_bytes: int, what: str) -> None:
    """Refuse to start what the memory could not hold.

    Args:
        n_bytes: an estimate of what it takes beside what is held already.
        what: what takes it, and what would make it smaller, for the message.

    Raises:
        InsufficientResourcesError: with both figures.
    """
    free = free_memory()
    if n_bytes > free:
        raise InsufficientResourcesError(
            f"{what}: about {readable_bytes(n_bytes)} of memory are needed, "
            f"{readable_bytes(free)} are free; take a larger machine"
        )


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the container or job that it runs in."""
    free = int(psutil.virtual_memory().available)
    for group in _own_groups():
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                used = int((group / "memory.current").read_text())
                facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                # what files left in the cache is given back when it is needed
                free = min(free, int(limit) - used + int(facts.get("inactive_file", 0)))
        except (OSError, ValueError):
            continue
    return max(free, 0)


def readable_bytes(n_bytes: int) -> str:
    """A number of bytes for people: ``1.5 GiB``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"


def _own_groups() -> list[Path]:
    """This process's control group (version 2) and those above it; none where there are no such things."""
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        return []
    own = [line[3:].lstrip("/") for line in lines if line.startswith("0::")]
    return [
        group
        for name in own
        for group in (CONTROL_GROUPS / name, *(CONTROL_GROUPS / name).parents)
        if group.is_relative_to(CONTROL_GROUPS)
    ]


def peak_rss_mib() -> int:
    """The most memory that this process has held, in MiB."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
