"""Where and with what figures were taken: no figure means anything without it."""

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import OWN, PROJECT, versions
from benchmarks.framework import Benchmark

FAST_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
"""Of a processor's flags, those that decide which kernels run."""


def header(benchmarks: Sequence[Benchmark], load: float) -> list[str]:
    """Machine, threads, versions, date and commit, a line each; ``load`` is the machine's before the run."""
    names = {subject.environment for benchmark in benchmarks for subject in benchmark.subjects}
    listed = [OWN, *sorted(names - {OWN})]
    found = {library: version for name in reversed(listed) for library, version in versions(name).items()}
    threads = ", ".join(f"{benchmark.name} {benchmark.threads}" for benchmark in benchmarks)
    return [
        f"machine: {_processor()}; {os.cpu_count()} cores; {platform.system()} {platform.machine()}",
        f"threads: {threads}",
        f"python {platform.python_version()}; " + ", ".join(f"{name} {version}" for name, version in found.items()),
        f"{datetime.date.today().isoformat()}, commit {_commit()}, load before {load:.1f}",
    ]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown processor"
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"flags\s*:\s*(.+)", text)
    fast = [flag for flag in FAST_FLAGS if flags and flag in flags[1].split()]
    return f"{model[1] if model else 'unknown processor'} ({' '.join(fast) or 'none of ' + ' '.join(FAST_FLAGS)})"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
