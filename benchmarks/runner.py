"""Times the subjects of a benchmark: a process each, repeats interleaved, medians."""

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.environments import PROJECT, python_of
from benchmarks.framework import Benchmark, Subject, Unavailable

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
MAX_SECONDS = 1800
"""A subject that has not answered by then is taken for stuck."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One subject on one case: medians over the repeats.

    Attributes:
        benchmark: name of the benchmark.
        case: name of the case.
        subject: name of the subject.
        cpu_ms: CPU time of a repeat, all threads and ended child processes together.
        wall_ms: wall time of a repeat.
        peak_mib: most memory at any time of the repeats above that of the bare process (libraries loaded); child
            processes not counted.
        x_floor: cpu_ms over that of the case's cheapest floor; None without one.
        x_best_peer: cpu_ms over that of the case's fastest peer; None without one.
    """

    benchmark: str
    case: str
    subject: str
    cpu_ms: float
    wall_ms: float
    peak_mib: float
    x_floor: float | None
    x_best_peer: float | None


@dataclass(frozen=True)
class LeftOut:
    """A subject that gave no figures on a case, and why."""

    benchmark: str
    case: str
    subject: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What one benchmark gave."""

    benchmark: Benchmark
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Figures:
    """What was measured of one subject on one case."""

    cpu_ms: float
    wall_ms: float
    peak_mib: float


class SubjectError(Exception):
    """A subject broke or hung; the message is the last line of what it said, ``said`` all of it."""

    def __init__(self, said: str, before: str = "") -> None:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        super().__init__(before + (lines[-1] if lines else "nothing was said"))
        self.said = said


def run(benchmark: Benchmark, module: str, *, cases: Sequence[str], repeats: int, say: Say) -> Result:
    """Time a benchmark's subjects.

    Args:
        benchmark: what to time.
        module: the name by which a worker imports it.
        cases: names of the cases, of those that the benchmark has.
        repeats: timed repeats of every subject, at least 1.
        say: is told what happens.

    Returns:
        A row for every subject that ended its repeats; the others with their reasons.
    """
    unknown = sorted(set(cases) - set(benchmark.cases))
    if unknown or repeats < 1:
        raise ValueError(f"cases {unknown} are none of {list(benchmark.cases)}, or repeats {repeats} is below 1")
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for case in cases:
        say(f"{benchmark.name}: {case}")
        figures, reasons = _run_case(benchmark, module, case, repeats, say)
        rows += ratios(benchmark, case, figures)
        left_out += [LeftOut(benchmark.name, case, subject, reason) for subject, reason in reasons.items()]
    return Result(benchmark, tuple(rows), tuple(left_out))


def _run_case(
    benchmark: Benchmark, module: str, case: str, repeats: int, say: Say
) -> tuple[dict[str, Figures], dict[str, str]]:
    """Figures of the subjects that ended, reasons of those that did not."""
    workers: dict[str, Worker] = {}
    times: dict[str, list[tuple[float, float]]] = {}
    figures: dict[str, Figures] = {}
    reasons: dict[str, str] = {}

    with ExitStack() as stack:

        def ask(name: str, order: Literal["make", "repeat", "peak"]) -> dict[str, Any] | None:
            try:
                return workers[name].ask(order)
            except (Unavailable, SubjectError) as error:
                leave_out(name, error)
                return None

        def leave_out(name: str, error: Exception) -> None:
            workers.pop(name, None)
            reasons[name] = str(error)
            say(f"  left out: {name}: {error}")
            if isinstance(error, SubjectError):
                say(error.said.rstrip())

        for subject in benchmark.subjects:
            try:
                workers[subject.name] = stack.enter_context(Worker(benchmark, module, case, subject))
            except Unavailable as error:
                leave_out(subject.name, error)
            else:
                ask(subject.name, "make")
        for _ in range(repeats):
            for name in list(workers):
                if answer := ask(name, "repeat"):
                    times.setdefault(name, []).append((answer["cpu_ms"], answer["wall_ms"]))
        for name in list(workers):
            if answer := ask(name, "peak"):
                figures[name] = figures_of(times[name], answer["peak_mib"], benchmark.subject(name).share)
    return figures, reasons


def figures_of(times: Sequence[tuple[float, float]], peak_mib: float, share: float) -> Figures:
    """Medians of the repeats' CPU and wall times, scaled to the whole case where a repeat did a share of it."""
    cpu, wall = (statistics.median(column) / share for column in zip(*times, strict=True))
    return Figures(cpu, wall, peak_mib)


def ratios(benchmark: Benchmark, case: str, figures: Mapping[str, Figures]) -> list[Row]:
    """Rows with each subject's CPU time over the cheapest floor's and over the fastest peer's."""

    def cheapest(role: str) -> float | None:
        times = [figures[one.name].cpu_ms for one in benchmark.subjects if one.role == role and one.name in figures]
        return min(times, default=None)

    def over(cpu_ms: float, other: float | None) -> float | None:
        return cpu_ms / other if other else None

    floor, peer = cheapest("floor"), cheapest("peer")
    return [
        Row(
            benchmark.name, case, one.name, taken.cpu_ms, taken.wall_ms, taken.peak_mib,
            over(taken.cpu_ms, floor), over(taken.cpu_ms, peer),
        )
        for one in benchmark.subjects
        if (taken := figures.get(one.name))
    ]  # fmt: skip


class Worker:
    """The process of one subject on one case; ended when its `with` ends."""

    def __init__(self, benchmark: Benchmark, module: str, case: str, subject: Subject) -> None:
        """Start the process.

        Raises:
            Unavailable: its environment cannot be made here.
        """
        python = python_of(subject.environment)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", module, case, subject.name],
            cwd=PROJECT,
            env=variables(python, benchmark.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,  # so that its own children can be ended with it
        )

    def ask(self, order: Literal["make", "repeat", "peak"]) -> dict[str, Any]:
        """The worker's answer to an order.

        Raises:
            Unavailable: the subject says so.
            SubjectError: it raised, died or hung.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps({"do": order}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._last_words() from None
        if not select.select([self.process.stdout], [], [], MAX_SECONDS)[0]:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise SubjectError(f"no answer in {MAX_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise self._last_words()
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "failed" in answer:
            raise SubjectError(answer["failed"])
        return answer

    def _last_words(self) -> SubjectError:
        code = self.process.wait()
        self.errors.seek(0)
        return SubjectError(self.errors.read(), f"its process ended with code {code}: ")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.process.communicate(timeout=10)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
        finally:
            self.errors.close()


def variables(python: str, threads: int) -> dict[str, str]:
    """The environment variables of a process of that Python."""
    settings = dict(os.environ) | {name: str(threads) for name in THREAD_SETTINGS}
    settings["CUDA_VISIBLE_DEVICES"] = ""  # peers that find a GPU would take it
    if python != sys.executable:
        settings.pop("PYTHONPATH", None)
    return settings
