import platform
import subprocess
import sys

import pytest

from seglens.runtime import malloc
from seglens.runtime.malloc import give_back_freed_memory, keep_freed_memory

FAULTS = """
import resource
import torch
from seglens.runtime.malloc import keep_freed_memory

assert keep_freed_memory()

def passes(count):
    for _ in range(count):
        (torch.ones(2**22) + 1) * 2

passes(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
passes(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HELD = """
import psutil
import torch
from seglens.runtime.malloc import give_back_freed_memory, keep_freed_memory

keep_freed_memory()
resident = psutil.Process().memory_info
many = [torch.ones(2**18) for _ in range(200)]  # 200 MiB
last = torch.ones(2**18)
del many
held = resident().rss
assert give_back_freed_memory()
print(held - resident().rss)
"""


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what it is told to keep")
def test_what_was_kept_is_given_back():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150 * 2**20


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what it is told to keep")
def test_freed_memory_is_not_cleared_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # ten times three tensors of 4096 pages, all of which glibc would give back and get again
    assert int(done.stdout) < 30 * 4096 / 5


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert not give_back_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _name: object())
    assert not keep_freed_memory()
    assert not give_back_freed_memory()
