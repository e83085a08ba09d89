"""What several folders' tests need."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

Ended = list[subprocess.CompletedProcess[str]]


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
