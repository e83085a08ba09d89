"""A signal at any moment: the run ends, leaves what the next one goes on from, and no process."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from tests.crash import left_behind, smallest_study

from seglens.runtime.signals import SAME_WISH_SECONDS, Stopped, asked_to_stop, by_steps, heeding_signals, stop_if_asked
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_stages, run_study

WITH_CHECKPOINT = ("segmenter/", "dictionary/", "variant/")


@contextmanager
def command(*arguments: str):
    """A command in a session of its own; whatever is left of that session is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        for left in session_of(process):
            left.kill()
        process.communicate()


def session_of(leader: subprocess.Popen) -> list[psutil.Process]:
    """The processes of a session that are still running."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until(condition, process: subprocess.Popen, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def newest(out: Path) -> int:
    """The step of the first segmenter's checkpoint; 0 where there is none yet."""
    found = out.glob("checkpoints/segmenter-first-*/step_*")
    return max((int(path.name.removeprefix("step_")) for path in found), default=0)


def ended(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str]:
    """Exit code and words of a process that must end now, with nothing left of its session."""
    said = process.communicate(timeout=seconds)[0].decode()
    deadline = time.monotonic() + seconds
    while session_of(process) and time.monotonic() < deadline:  # a server of workers needs a moment to see the end
        time.sleep(0.1)
    assert session_of(process) == []
    return process.returncode, said


@pytest.mark.processes
def test_row_43_a_signal_in_every_stage(tmp_path):
    """SIGTERM in the midst of every stage: stopped, with a checkpoint where the stage has one; the end is the same."""
    settings = smallest_study(tmp_path / "data")
    undisturbed = run_study(settings, tmp_path / "undisturbed")
    stopped, out = [], tmp_path / "out"

    @contextmanager
    def announce(stage):
        def progress(done, total, **figures):
            if stage not in stopped:
                stopped.append(stage)
                os.kill(os.getpid(), signal.SIGTERM)

        yield progress
        progress(1, 1)  # for stages that report nothing: just before their end

    while True:
        before = len(stopped)
        try:
            with heeding_signals():
                run_study(settings, out, announce=announce)
            break
        except Stopped as stop:
            assert stop.exit_code == 143
        assert len(stopped) == before + 1
        if stopped[-1].startswith(WITH_CHECKPOINT):
            kept = [path for path in (out / "checkpoints").glob("*/*") if not path.name.startswith(".")]
            assert [path.name for path in kept] in (["step_0000002"], ["fit.safetensors"]), stopped[-1]
    assert stopped == undisturbed.stages()
    assert left_behind(out) == (undisturbed.hashes, [])


@pytest.mark.processes
def test_row_43_a_study_with_workers(tmp_path):
    """SIGTERM to a study with worker processes: exit code 143, a checkpoint, no process left."""
    settings = smallest_study(tmp_path / "data").model_dump(mode="json")
    settings["segmenters"]["first"]["steps"] = 100_000
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    with command("seglens.cli", "run", str(tmp_path / "study.yaml"), "--out", str(out), "--jobs", "2") as process:
        wait_until(lambda: newest(out), process)
        process.terminate()
        code, said = ended(process)
    assert code == 143, said
    assert said.endswith("seglens: stopped by SIGTERM; the same command goes on where this one was\n")
    assert newest(out) > 100  # one is written every 100 steps: the last is of the moment of the signal


@pytest.mark.processes
def test_row_43_workers_that_make_a_cohort(tmp_path):
    """SIGTERM, Ctrl-C or `kill -9` while workers write a cohort: nothing under its name, no process left."""
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        out = tmp_path / str(code)
        options = ("--population", "adult", "--subjects", "500", "--size", "32", "--slices", "2")
        with command("seglens.cli", "phantom", "--out", str(out), *options) as process:
            wait_until(lambda out=out: list(out.parent.glob(f".{out.name}*/imagesTr/*.nii.gz")), process)
            process.send_signal(number)
            found, said = ended(process)
        assert found == code
        assert ("stopped by" in said) == (code > 0)
        assert not list(out.glob("imagesTr/*"))


@pytest.mark.processes
def test_row_43_several_processes(tmp_path):
    """SIGTERM to torchrun: the processes write one checkpoint and end; fewer go on from it."""
    settings = smallest_study(tmp_path / "data").model_dump(mode="json")
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    settings["segmenters"]["first"]["steps"] = 100_000
    study.write_text(yaml.safe_dump(settings))
    verb = ("-m", "seglens.cli", "train", str(study), "first", "--out", str(out))
    with command("torch.distributed.run", "--nproc-per-node", "2", *verb) as process:
        wait_until(lambda: newest(out), process)
        process.terminate()
        code, said = ended(process)
    assert code != 0
    assert "stopped by SIGTERM" in said
    assert newest(out) > 100
    seen = []

    @contextmanager
    def announce(stage):
        def progress(done, total, **figures):
            seen.append(done)
            raise KeyboardInterrupt

        yield progress

    with pytest.raises(KeyboardInterrupt):
        run_stages(StudySettings.read(study), out, ("segmenter",), ("first",), announce=announce)
    assert seen == [newest(out) + 1]


def test_a_signal_between_steps_waits_for_the_step_and_a_second_one_does_not(monkeypatch):
    with heeding_signals(), pytest.raises(Stopped, match="SIGINT"), by_steps():
        signal.raise_signal(signal.SIGINT)
        assert asked_to_stop() == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)  # passed on by a launcher
        stop_if_asked()
    assert asked_to_stop() is None
    monkeypatch.setattr("seglens.runtime.signals.SAME_WISH_SECONDS", 0.0)
    assert SAME_WISH_SECONDS > 0
    reached = False
    with heeding_signals(), pytest.raises(Stopped), by_steps():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        reached = True
    assert not reached


def test_a_signal_that_nobody_raised_ends_the_steps():
    with heeding_signals(), pytest.raises(Stopped), by_steps():
        signal.raise_signal(signal.SIGTERM)


def test_without_a_handler_signals_are_what_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with heeding_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
