"""The process of one subject on one case: sets up, then does a repeat whenever it is asked.

    python -m benchmarks.worker MODULE CASE SUBJECT

Orders and answers are JSON, a line each: standard input {"do": "make" | "repeat" | "peak"}; standard output
{"ok": true, ...}, {"unavailable": why} or {"failed": traceback}. What a subject prints goes to standard error.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.framework import Repeat, Unavailable

LIBRARIES = ("numpy", "scipy.optimize", "scipy.sparse", "torch", "torch._dynamo")
"""Loaded, where they are installed, before memory is measured: their code is not what a subject needs. (torch's
optimisers load torch._dynamo.)"""
MIB = 1024**2


def main(module: str, case: str, subject_name: str) -> None:
    """Answer orders until standard input is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    benchmark = importlib.import_module(module).BENCHMARK
    subject = benchmark.subject(subject_name)
    repeat: Repeat | None = None
    base = 0.0

    def make() -> dict[str, Any]:
        nonlocal repeat, base
        _load_libraries()
        subject.load()
        base = resident()
        repeat = subject.make(benchmark.cases[case])
        gc.collect()
        forget_peak()
        return {}

    def once() -> dict[str, Any]:
        assert repeat is not None
        return dict(zip(("cpu_ms", "wall_ms"), timed(repeat), strict=True))

    def peak() -> dict[str, Any]:
        return {"peak_mib": max(0.0, peak_resident() - base)}

    orders = {"make": make, "repeat": once, "peak": peak}
    for line in sys.stdin:
        print(json.dumps(_answer(orders[json.loads(line)["do"]])), file=answers, flush=True)


def _answer(order: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, **order()}
    except Unavailable as error:
        return {"unavailable": str(error)}
    except Exception:
        return {"failed": traceback.format_exc()}


def _load_libraries() -> None:
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)


def timed(repeat: Repeat) -> tuple[float, float]:
    """CPU time (this process, its threads, and its ended children) and wall time of one call, in milliseconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    repeat()
    return (cpu_seconds() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3


def cpu_seconds() -> float:
    """CPU time of this process and of all its children that were waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def resident() -> float:
    """Memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def forget_peak() -> None:
    """Let the peak begin at what is resident now, where the system allows it: set-up's own peak is not counted."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> float:
    """Most memory that this process had since `forget_peak`, MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
