"""A benchmark for the tests of the runner: subjects that work, that refuse, that break."""

import os
import subprocess
import sys

from benchmarks.framework import Benchmark, Subject, Unavailable

MIB = 1024**2
BURN = "import time\nwhile time.process_time() < 0.1: pass"


def make_counting(case, share):
    print("whatever a subject prints must not get into the answers")
    return lambda: sum(range(case["n"] // share))


def make_holding(case):
    set_up = bytearray(300 * MIB)  # only set-up's: not what a repeat needs
    del set_up
    return lambda: len(bytearray(case["mib"] * MIB))


def make_child(case):
    return lambda: subprocess.run([sys.executable, "-c", BURN], check=True)


def make_refusing(case):
    raise Unavailable("the peer is not for this machine")


def make_breaking(case):
    raise ValueError("broken in set-up")


def make_breaking_later(case):
    calls = []

    def repeat():
        calls.append(None)
        if len(calls) > 1:
            raise RuntimeError("broken in the second repeat")

    return repeat


def make_dying(case):
    def repeat():
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

    return repeat


def make_settings(case):
    found = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    if found != {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}:
        raise ValueError(f"set otherwise: {found}")
    return lambda: None


BENCHMARK = Benchmark(
    name="toy",
    title="Sums of whole numbers.",
    cases={
        "small": {"n": 200_000, "mib": 50},
        "twice": {"n": 400_000, "mib": 100},
        "four times": {"n": 800_000, "mib": 200},
    },
    subjects=(
        Subject("ours", "ours", lambda case: make_counting(case, 2)),
        Subject("slow peer", "peer", lambda case: make_counting(case, 1)),
        Subject("floor", "floor", lambda case: make_counting(case, 4)),
        Subject("holding", "peer", make_holding),
        Subject("child", "peer", make_child),
        Subject("refusing", "peer", make_refusing),
        Subject("breaking", "peer", make_breaking),
        Subject("breaking later", "peer", make_breaking_later),
        Subject("dying", "peer", make_dying),
        Subject("settings", "peer", make_settings),
        Subject("elsewhere", "peer", make_holding, environment="nowhere"),
    ),
    growth={"numbers": ("small", "twice", "four times")},
    threads=2,
)
