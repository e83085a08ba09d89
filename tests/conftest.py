"""What several folders' tests need."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from seglens.runs import Run

Ended = list[subprocess.CompletedProcess[str]]
STARTERS = {"run_ranks", "bare_python"}
"""Fixtures whose users start processes."""
STUDIES = {"finished", "quick_run"}
"""Fixtures whose users look at a whole study."""
LONGEST = (
    "test_demo.py",
    "test_running_signals.py",
    "test_running_kills.py",
    "test_extending.py",
    "test_readme.py",
    "test_parallel.py",
    "test_study.py",
)
"""Files that take longest, in the order in which they are begun: so the last to end is a short one."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes by way of a fixture, and spare what takes longest the measuring.

    Coverage is that of the tests which start no process: the others run once as long without its tracer.
    """
    for item in items:
        if STUDIES & set(getattr(item, "fixturenames", ())):
            item.add_marker("study")
        if STARTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")
        if item.get_closest_marker("processes") or item.get_closest_marker("browser"):
            item.add_marker("no_cover")
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Make a folder in the first of xdist's workers that asks for it; each worker gets a copy that it may change."""

    def made(name: str, make: Callable[[Path], Any]) -> Path:
        base = tmp_path_factory.getbasetemp()
        shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"made-{name}"
        done = Path(f"{shared}.done")
        with FileLock(f"{shared}.lock"):
            if not done.exists():
                shutil.rmtree(shared, ignore_errors=True)
                make(shared)
                done.touch()
        return Path(shutil.copytree(shared, tmp_path_factory.mktemp(name) / "copy"))

    return made


@pytest.fixture(scope="session")
def finished(made_once: Callable[[str, Callable[[Path], Any]], Path]) -> "Run":
    """A study of pictures with its report: two segmenters of eight patients at 8 x 8 tokens, one of them also at 4 x 4.

    Of every kind of analysis but phantoms and verdicts.
    """
    from tests.crash import smallest_study

    from seglens.runs import Run
    from seglens.studies.report import write_report
    from seglens.studies.study import run_study

    def make(folder: Path) -> None:
        small = smallest_study(folder / "data")
        longer = small.dictionaries.model_copy(update={"steps": 30})
        first = small.segmenters["first"].model_copy(update={"hookpoints": ("stage1", "stage2"), "network": {}})
        segmenters = {**small.segmenters, "first": first}
        changes = {"hookpoints": ("stage1",), "segmenters": segmenters, "dictionaries": longer}
        write_report(run_study(small.model_copy(update=changes), folder / "run"))

    return Run(made_once("study", make) / "run")


@pytest.fixture
def run_ranks() -> Callable[..., Ended]:
    """Run the same Python code or command in several processes, with the environment that a launcher gives them."""

    def run(*arguments: str, size: int = 2, timeout: float = 150) -> Ended:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        try:
            said = [process.communicate(timeout=timeout) for process in running]
        finally:
            for process in running:
                process.kill()
        return [
            subprocess.CompletedProcess(process.args, process.returncode, *texts)
            for process, texts in zip(running, said, strict=True)
        ]

    return run


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that a package is installed which adds rows by entry points; an exception is what loading raises."""

    class Entry(EntryPoint):
        def load(self) -> Any:
            row = rows[self.name]
            if isinstance(row, Exception):
                raise row
            return row

    rows: dict[str, Any] = {}

    def install(group: str, **added: Any) -> None:
        rows.clear()
        rows.update(added)
        entries = [Entry(name, f"package:{name}", group) for name in added]
        monkeypatch.setattr("seglens.entry_points.declared", lambda group: [e for e in entries if e.group == group])

    return install
