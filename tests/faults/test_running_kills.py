"""`kill -9` at random moments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.processes
def test_row_39_kills(tmp_path):
    """`kill -9` at any moment: the next run does only what is missing; every hash is that of an undisturbed run."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--kills", "20", "--row", "5"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"20 of 20 equal an undisturbed run \((\d+) artifacts\)", done.stdout)
