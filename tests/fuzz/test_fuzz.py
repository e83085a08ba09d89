"""The fuzzer's targets on their seeds, on what it has found, and for some seconds on what it thinks of."""

import importlib.util
import subprocess
import sys

import pytest
from tests.fuzz.__main__ import CASES
from tests.fuzz.targets import TARGETS

FOUND = [(file.parent.name, file) for file in sorted(CASES.glob("*/*"))]


def finding(name: str, content: bytes) -> str | None:
    """What a target says of an input that is a finding; None where it was read or refused as it must be."""
    try:
        TARGETS[name].read(content)
    except Exception as error:  # whatever the reader lets out
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_damaged_copies_are_read_or_refused(name):
    seeds = list(TARGETS[name].seeds())
    assert seeds, "nothing to read"
    for content in seeds:
        assert finding(name, content) is None
        for place in range(0, len(content), max(1, len(content) // 20)):
            assert finding(name, content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]) is None
            assert finding(name, content[:place]) is None


@pytest.mark.parametrize(("name", "file"), FOUND, ids=[f"{name}-{file.name[:20]}" for name, file in FOUND])
def test_what_the_fuzzer_found_stays_mended(name, file):
    assert finding(name, file.read_bytes()) is None


@pytest.mark.processes
@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_finds_nothing(name):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install -r tests/fuzz/requirements.txt (Linux, Python 3.11 to 3.13)")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
