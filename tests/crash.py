"""Kill a study at random moments, run it again, and compare what it leaves with an undisturbed run.

python -m tests.crash --kills 100 --row 5          a very small study with every stage but the making of phantoms
python -m tests.crash --kills 10 --study demo      `seglens demo --quick`

The small study is forked from a process that has imported everything, so that a run takes seconds: for what is on disk
a killed fork is a killed process. The demo is the command itself.
"""

import argparse
import importlib
import itertools
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.pictures import discs, study_of_pictures
from tests.toys import TINY_SEGFORMER

import seglens
from seglens.artifacts import read_artifact
from seglens.runs import Run
from seglens.studies.report import write_report
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_study

Start = Callable[[Path], int]
"""Starts a run in a folder, in a process of its own; the process's number."""
STUDIES = ("smallest", "demo")


def smallest_study(folder: Path) -> StudySettings:
    """Two segmenters of pictures written to ``folder``: eight patients, three discs each with a square in it."""
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    settings = study_of_pictures(folder, "discs", discs(0), patients=8, pictures=3, fractions=fractions) | {
        "segmenters": {
            "first": {"cohort": "discs", "steps": 4, "batch_size": 4, "network": TINY_SEGFORMER},
            "second": {"cohort": "discs", "steps": 3, "batch_size": 4, "init_from": "first"},
        },
        "hookpoints": "stage4",
        "dictionaries": {"k": 2, "expansion": 1, "steps": 6, "batch_size": 64},
        "steering": [{"segmenter": "first", "cohort": "discs", "label": "tumour"}],
        "failures": [{"segmenter": "first", "cohort": "discs", "worst": 2}],
        "atlas_top_k": 2,
    }
    return StudySettings.parse(settings, "the crash test")


def forked(settings: StudySettings) -> Start:
    """A study in a fork of this process, which must not have computed anything: threads are not forked."""
    for module in pkgutil.walk_packages(seglens.__path__, "seglens."):
        importlib.import_module(module.name)
    importlib.import_module("transformers.models.segformer.modeling_segformer")

    def start(out: Path) -> int:
        number = os.fork()
        if number == 0:
            code = 1
            try:
                write_report(run_study(settings, out))
                code = 0
            finally:
                os._exit(code)
        return number

    return start


def demo(seed: int = 0) -> Start:
    """The command ``seglens demo --quick``, each time with another number of jobs."""
    jobs = itertools.cycle((1, 2, 4))

    def start(out: Path) -> int:
        verb = ["demo", "--quick", "--jobs", str(next(jobs)), "--out", str(out), "--seed", str(seed)]
        command = [sys.executable, "-m", "seglens.cli", *verb]
        nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=nowhere)

    return start


def finish(start: Start, out: Path) -> None:
    """Run to the end.

    Raises:
        RuntimeError: it failed.
    """
    _, status = os.waitpid(start(out), 0)
    if status:
        raise RuntimeError(f"the run in {out} ended with {os.waitstatus_to_exitcode(status)}")


def kill(start: Start, out: Path, moment: float) -> bool:
    """Start, and `kill -9` after so many seconds; whether it was still running."""
    number = start(out)
    time.sleep(moment)
    os.kill(number, signal.SIGKILL)  # where it has ended nobody has asked yet, so its number is still its own
    _, status = os.waitpid(number, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def left_behind(out: Path) -> tuple[dict[str, str], list[str]]:
    """Content hash of every stage, each file compared with its own; and what is no finished artifact."""
    run = Run(out)
    hashes = {stage: read_artifact(run.artifact(stage).path, verify=True).hash for stage in run.stages()}
    unfinished = [*(out / "artifacts").glob(".*"), *(out / "checkpoints").glob("*")]
    return hashes, sorted(path.name for path in unfinished)


def main() -> int:
    """Compare; exit 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--study", choices=STUDIES, default=STUDIES[0])
    parser.add_argument("--row", type=int, default=1, help="kills in a row before a run may finish")
    parser.add_argument("--draw", type=int, default=0, help="seed of the moments")
    arguments = parser.parse_args()
    chance = random.Random(arguments.draw)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = forked(smallest_study(folder / "data")) if arguments.study == "smallest" else demo()
        began = time.monotonic()
        finish(start, folder / "undisturbed")
        longest = (time.monotonic() - began) / arguments.row
        wanted = left_behind(folder / "undisturbed")
        killed = different = 0
        while killed < arguments.kills:
            out, row, same = folder / f"killed {killed}", 0, True
            while row < min(arguments.row, arguments.kills - killed) and kill(start, out, chance.uniform(0, longest)):
                row += 1
                # what is finished by now is right already
                same &= left_behind(out)[0].items() <= wanted[0].items()
            finish(start, out)
            same &= left_behind(out) == wanted
            longest *= 1.05 if row == arguments.row else 0.8  # the machine may have become slower, or faster
            killed += row
            different += 0 if same else row
            print(f"{killed} kills, the last {row}: {'equal' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(out)
    print(f"{killed - different} of {killed} equal an undisturbed run ({len(wanted[0])} artifacts)")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
