"""Independent stages of a study at the same time, each in a worker process with the threads of one stage.

Two stages side by side, a core each, are done sooner than one after the other by two cores: much of a small network's
pass does not divide. A worker leaves a stage's artifact where the study looks for it; who started the workers then
goes through the study and finds it finished, and it alone keeps the books.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from seglens.runs import Run
from seglens.runtime.distributed import rank_and_size
from seglens.runtime.malloc import keep_freed_memory
from seglens.runtime.progress import Announce, Progress
from seglens.runtime.resources import peak_rss_mib
from seglens.runtime.signals import Stopped, follow_parent, heeding_signals
from seglens.runtime.streams import lasting_streams
from seglens.runtime.threads import MAX_JOBS, computing_with
from seglens.studies.analysis import Analysis, Unit
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study
from seglens.studies.table import analysis_table

REPORT_EVERY_SECONDS = 0.2
END_WITHIN_SECONDS = 20.0
"""A worker that is told to end and does not is killed."""


@dataclass(frozen=True)
class Task:
    """One stage as a worker does it.

    Attributes:
        do: a method of `Study`, or a function of a module that takes a study first.
        arguments: what it takes beside the study.
        after: what must be finished before, so that a worker computes nothing but this stage.
    """

    do: Callable[..., object]
    arguments: tuple[Any, ...]
    after: frozenset["Task"] = frozenset()


class WorkerError(RuntimeError):
    """A worker process ended without an answer, or failed by a fault of ours; the message has its traceback."""


def tasks_of(
    settings: StudySettings, analyses: Mapping[str, Analysis], asked: Iterable[tuple[str, Unit]]
) -> list[Task]:
    """Tasks of units of analyses and of all that they read; what the longest chain waits for is begun first.

    Args:
        settings: of the study.
        analyses: the table, by name.
        asked: analyses and units.
    """
    tasks: dict[tuple[str, Unit], frozenset[Task]] = {}
    # what a study does not ask for of its own analyses, such as a store where none is kept, gets no task
    units = {name: set(row.units(settings)) if row.by_default else None for name, row in analyses.items()}
    longest: dict[Task, float] = {}

    def needed(name: str, unit: Unit) -> frozenset[Task]:
        """The task that finishes a unit; of one that gets no worker of its own, the tasks before it."""
        if (name, unit) not in tasks:
            row = analyses[name]
            if row.reads is None:
                read = [(other, one) for other in row.after for one in analyses[other].units(settings)]
            else:
                read = list(row.reads(settings, unit))
            before = frozenset[Task]().union(*(needed(*other) for other in read))
            own = units[name]
            done = row.apart and (own is None or unit in own)
            tasks[name, unit] = frozenset({Task(Study.result, (name, *unit), before)}) if done else before
        return tasks[name, unit]

    for name, unit in asked:
        needed(name, unit)
    found = [task for key, own in tasks.items() for task in own if task.arguments == (key[0], *key[1])]
    for task in reversed(found):  # each comes after those that it waits for
        longest[task] = longest.get(task, 0.0) + analyses[task.arguments[0]].weight
        for before in task.after:
            longest[before] = max(longest.get(before, 0.0), longest[task])
    return sorted(found, key=lambda task: -longest[task])


def default_jobs() -> int:
    """Stages at once where nothing else is asked for: one a core, `MAX_JOBS` at most; one on a GPU or in a group."""
    if torch.cuda.is_available() or rank_and_size()[1] > 1:
        return 1
    return min(MAX_JOBS, torch.get_num_threads())


def work_ahead(settings: StudySettings, tasks: Sequence[Task], run: Run, *, jobs: int, announce: Announce) -> int:
    """Finish stages of a study by several workers.

    Args:
        settings: of the study.
        tasks: what to do, with all that they come after.
        run: held for writing; its timings are kept.
        jobs: workers; each computes with as many threads as this process does now.
        announce: told of every worker's stages; several of its contexts are open at once.

    Returns:
        The most memory that each worker has held, added up, in MiB.

    Raises:
        WorkerError: a worker was killed.
        Exception: what a stage raised; the other workers are stopped.
    """
    waiting, finished = list(tasks), set[Task]()
    with _workers(settings, run.path, jobs, announce) as workers:
        idle, busy = list(workers), list[_Worker]()
        while waiting or busy:
            for task in [task for task in waiting if task.after <= finished][: len(idle)]:
                waiting.remove(task)
                worker = idle.pop()
                worker.begin(task)
                busy.append(worker)
            received = connection.wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in received]:
                seconds = worker.follow()
                if seconds is not None:
                    run.record_timings(seconds)
                    finished.add(worker.task)
                    busy.remove(worker)
                    idle.append(worker)
        return sum(worker.peak_rss_mib for worker in workers)


class _Worker:
    """A process that does one task after the other, and what is shown of it."""

    def __init__(self, settings: StudySettings, folder: Path, threads: int, announce: Announce):
        context = get_context("spawn")
        self.pipe, other_end = context.Pipe()
        self._process = context.Process(target=_work, args=(other_end, settings, folder, threads), daemon=True)
        self._process.start()
        other_end.close()
        self._announce = announce
        self._stages: list[tuple[ExitStack, Progress]] = []  # a stage may need others, which are done inside it
        self.peak_rss_mib = 0

    def begin(self, task: Task) -> None:
        """Have it do a task."""
        self.task = task
        with suppress(BrokenPipeError):  # it has died since its last task; `follow` says so
            self.pipe.send((task.do, task.arguments))

    def follow(self) -> dict[str, float] | None:
        """Take one message; where it says that the task is done, the seconds of the stages that were computed."""
        try:
            kind, content = self.pipe.recv()
        except EOFError:
            self._process.join()
            raise WorkerError(
                f"the worker at {self.task.do.__name__} {' '.join(map(str, self.task.arguments))} ended with exit "
                f"code {self._process.exitcode}; -9 is what a system out of memory does: try fewer --jobs"
            ) from None
        if kind == "begin":
            stage = ExitStack()
            self._stages.append((stage, stage.enter_context(self._announce(content))))
        elif kind == "progress":
            (done, total), figures = content
            self._stages[-1][1](done, total, **figures)
        elif kind == "end":
            self._stages.pop()[0].close()
        elif kind == "broken":
            broken = WorkerError(content)
            self._stages.pop()[0].__exit__(WorkerError, broken, None)  # so that it is not shown as done
        elif kind == "failed":
            error, received = content
            error.add_note(received)
            raise error
        else:
            seconds, self.peak_rss_mib = content
            return seconds
        return None

    def ask_to_end(self) -> None:
        """Have the process stop, with a checkpoint where its stage has one."""
        self._process.terminate()

    def end(self) -> None:
        """See that the process has ended."""
        while self._stages:
            self._stages.pop()[0].close()
        self._process.join(END_WITHIN_SECONDS)
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextmanager
def _workers(settings: StudySettings, folder: Path, jobs: int, announce: Announce) -> Iterator[Sequence[_Worker]]:
    threads = torch.get_num_threads()
    before = os.environ.get("OMP_NUM_THREADS")
    with ExitStack() as ends, ExitStack() as asks:
        workers = []
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the libraries that read it when they are imported
        try:
            for _ in range(jobs):
                workers.append(_Worker(settings, folder, threads, announce))
                ends.callback(workers[-1].end)
                asks.callback(workers[-1].ask_to_end)  # all are asked before the first is waited for
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        yield workers


def _work(pipe: Connection, settings: StudySettings, folder: Path, threads: int) -> None:
    """A worker's life: it ends when it is told to, and when the process that started it ends, however that ends."""
    with lasting_streams(), heeding_signals(), suppress(Stopped), computing_with(threads):
        follow_parent()
        _do_tasks(pipe, settings, folder)


def _do_tasks(pipe: Connection, settings: StudySettings, folder: Path) -> None:
    keep_freed_memory()
    run = Run(folder, keeps_books=False)
    study = Study(settings, run, analysis_table(), lambda stage: _reporting(pipe, stage))
    while True:
        do, arguments = pipe.recv()
        try:
            do(study, *arguments)
        except Exception as error:
            pipe.send(("failed", (error, traceback.format_exc())))
            return
        pipe.send(("done", (run.timings, peak_rss_mib())))


@contextmanager
def _reporting(pipe: Connection, stage: str) -> Iterator[Progress]:
    """Announce a stage through the pipe, and its progress now and then."""
    reported = 0.0

    def progress(done: int, total: int, **figures: float) -> None:
        nonlocal reported
        now = time.perf_counter()
        if now - reported >= REPORT_EVERY_SECONDS:
            reported = now
            pipe.send(("progress", ((done, total), figures)))

    pipe.send(("begin", stage))
    try:
        yield progress
    except Exception:
        pipe.send(("broken", stage))
        raise
    pipe.send(("end", stage))
