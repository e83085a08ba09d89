"""What several folders' tests need."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

Ended = list[subprocess.CompletedProcess[str]]
STARTERS = {"run_ranks", "bare_python"}
"""Fixtures whose users start processes."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start processes by way of a fixture."""
    for item in items:
        if STARTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("processes")


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
