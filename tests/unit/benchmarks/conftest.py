import os
import venv

import pytest
from benchmarks.environments import OWN
from benchmarks.framework import Unavailable


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """A Python with nothing installed: a worker in it starts in a moment."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


@pytest.fixture(scope="module")
def bare_workers(bare_python):
    def python_of(name):
        if name != OWN:
            raise Unavailable(f"environment {name} cannot be made here")
        return bare_python

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.runner.python_of", python_of)
        yield
