"""Independent stages at once: in an order that each can be done in, with the results of one process."""

import os
import signal
import time
from contextlib import contextmanager, suppress

import pytest
import torch
from tests.pictures import THIRDS, discs, study_of_pictures

from seglens.artifacts import locked
from seglens.runs import Run
from seglens.runtime.progress import silent
from seglens.studies.demo import demo_settings
from seglens.studies.parallel import Task, WorkerError, default_jobs, tasks_of, work_ahead
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_study
from seglens.studies.table import analysis_table
from seglens.summaries import summary_of


@pytest.fixture
def settings(tmp_path):
    """Eight patients with four pictures each, and two networks for them."""
    begun = study_of_pictures(tmp_path / "data", "squares", discs(0), patients=8, pictures=4, fractions=THIRDS)
    return StudySettings.model_validate(
        begun
        | {
            "segmenters": {
                "one": {"cohort": "squares", "steps": 4, "batch_size": 4},
                "two": {"cohort": "squares", "steps": 3, "batch_size": 4, "init_from": "one"},
            },
            "hookpoints": "stage1",
            "dictionaries": {"k": 4, "expansion": 2, "steps": 5, "batch_size": 200},
            "atlas_top_k": 1,
        }
    )


def everything(settings):
    table = analysis_table()
    return tasks_of(
        settings, table, [(row.name, unit) for row in table.values() if row.by_default for unit in row.units(settings)]
    )


def test_every_task_of_the_demo_comes_after_what_it_is_made_from():
    tasks = everything(demo_settings(0))
    assert len(tasks) == len(set(tasks))

    asked = {task.arguments: {other.arguments for other in task.after} for task in tasks}
    assert asked["segmenter", "adult"] == {("slices", "adult"), ("segmenter", "healthy")}
    assert asked["store", "adult-unet"] == {("effects", "adult-unet")}
    assert {name for _, name in asked["store", "ssa"]} == {"healthy", "adult", "pediatric", "ssa"}
    assert ("variant", "ssa", "rotated") in asked["alignment", "healthy", "ssa"]
    assert asked["alignment", "ssa", "adult-unet"] == {("dictionary", "ssa"), ("dictionary", "adult-unet")}
    assert asked["steering", "adult", "pediatric", "edema"] == {("dictionary", "adult"), ("slices", "pediatric")}
    assert ("variant", "adult-unet", "rotated") not in asked
    done: set = set()
    while len(done) < len(tasks):
        ready = [task for task in tasks if task not in done and task.after <= done]
        assert ready
        done.update(ready)


def test_without_a_store_a_dictionary_comes_after_the_effects():
    tasks = everything(demo_settings(0, quick=True).model_copy(update={"store": False}))
    assert "store" not in {task.arguments[0] for task in tasks}
    fit = next(task for task in tasks if task.arguments[0] == "dictionary")
    assert {other.arguments[0] for other in fit.after} == {"effects"}


def test_further_hookpoints_wait_for_the_pass_that_stores_all():
    demo = demo_settings(0, quick=True)
    settings = demo.model_copy(update={"hookpoints": ("stage2", "stage3")})
    asked = {task.arguments: {other.arguments for other in task.after} for task in everything(settings)}
    assert ("store", "adult") in asked["store", "adult@stage3"]
    assert asked["dictionary", "adult@stage3"] == {("store", "adult@stage3")}
    assert asked["atlas", "adult@stage3"] == asked["quality", "adult@stage3"] == {("dictionary", "adult@stage3")}
    assert ("variant", "adult@stage3", "rotated") not in asked


def test_what_the_longest_chain_waits_for_is_begun_first():
    tasks = [task.arguments for task in everything(demo_settings(0))]
    assert tasks[0] == ("check", "healthy")
    assert tasks.index(("segmenter", "healthy")) < tasks.index(("segmenter", "adult-unet"))
    assert tasks.index(("steering", "adult", "pediatric", "edema")) < tasks.index(("scores", "healthy", "healthy"))


def test_one_verb_s_tasks_are_what_it_is_made_from():
    table, settings = analysis_table(), demo_settings(0, quick=True)
    tasks = tasks_of(settings, table, [("atlas", ("adult",))])
    made_from = {"check", "slices", "segmenter", "effects", "store", "dictionary"}
    assert {task.arguments[0] for task in tasks} == made_from | {"atlas"}


@pytest.mark.processes
def test_two_workers_leave_what_one_process_would_and_do_nothing_twice(tmp_path, settings):
    torch.set_num_threads(1)
    seen = []

    @contextmanager
    def announce(stage):
        seen.append(stage)
        yield silent

    alone = run_study(settings, tmp_path / "alone")
    together = run_study(settings, tmp_path / "together", jobs=2, announce=announce)
    assert together.hashes == alone.hashes
    assert list(together.hashes) == list(alone.hashes)
    assert sorted(seen) == sorted(alone.hashes)
    assert set(together.timings) == set(alone.hashes)
    assert summary_of(together).peak_rss_mib > summary_of(alone).peak_rss_mib
    assert not list((together.path / "checkpoints").iterdir())
    assert {path.name for path in together.path.iterdir()} == {path.name for path in alone.path.iterdir()}


@pytest.mark.processes
def test_a_stage_that_fails_in_a_worker_is_this_process_s_error(tmp_path, settings):
    wrong = settings.model_copy(update={"sequences": ["T2"]})
    with pytest.raises(ValueError, match="T2"):
        run_study(wrong, tmp_path / "run", jobs=2)
    with locked(tmp_path / "run"):  # nobody holds the folder any more
        pass


@pytest.mark.processes
def test_a_killed_worker_is_told_and_ends_the_other(tmp_path, settings):
    import psutil

    workers = []

    @contextmanager
    def announce(stage):
        if not workers:
            workers.extend(psutil.Process().children())
            os.kill(workers[-1].pid, signal.SIGKILL)
            os.kill(workers[-2].pid, signal.SIGSTOP)
        yield silent

    with pytest.raises(WorkerError, match=r"ended with exit code -9.*--jobs"):
        run_study(settings, tmp_path / "run", jobs=2, announce=announce)
    time.sleep(0.1)
    assert not [worker for worker in workers[-2:] if worker.is_running() and worker.status() != "zombie"]
    assert Run(tmp_path / "run").stages() == []


def nested(study):
    with study.announce("outer") as progress:
        with study.announce("inner"):
            pass
        with suppress(KeyError), study.announce("broken"):
            raise KeyError
        progress(1, 2)


@pytest.mark.processes
def test_a_stage_inside_a_stage_is_shown_as_such_and_a_broken_one_not_as_done(tmp_path, settings):
    shown = []

    @contextmanager
    def announce(stage):
        shown.append(f"begin {stage}")
        yield lambda done, total: shown.append(f"{stage} {done} of {total}")
        shown.append(f"end {stage}")

    run = Run(tmp_path / "run")
    with run.writing({}):
        work_ahead(settings, [Task(nested, ())], run, jobs=1, announce=announce)
    assert shown == ["begin outer", "begin inner", "end inner", "begin broken", "outer 1 of 2", "end outer"]


def test_jobs_are_one_or_more(tmp_path, settings):
    with pytest.raises(ValueError, match="jobs is 0; it must be 1 or more"):
        run_study(settings, tmp_path / "run", jobs=0)
    assert 1 <= default_jobs() <= 4
