"""The peers' virtual environments: one each, so that their pins do not clash, made where they are first needed.

`benchmarks/requirements/NAME.txt` describes the environment NAME; it is made in `.benchmarks/NAME`. A peer's
environment has the peer and what it needs, not seglens: what its subjects import, they must find there.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from bootstrap import install_cpu_torch
from filelock import FileLock

from benchmarks.framework import Unavailable

PROJECT = Path(__file__).resolve().parent.parent
REQUIREMENTS = PROJECT / "benchmarks" / "requirements"
CACHE = PROJECT / ".benchmarks"
OWN = "own"
OWN_LIBRARIES = ("numpy", "scipy", "torch", "lapx", "monai")
"""What the table's header names of the Python that runs the benchmarks."""


def environments() -> list[str]:
    """The names of all environments but "own"."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


@functools.cache
def python_of(name: str) -> str:
    """The Python of an environment, which is made where it is missing or its requirements have changed.

    Raises:
        Unavailable: it cannot be made here, with pip's last word.
    """
    if name == OWN:
        return sys.executable
    requirements = REQUIREMENTS / f"{name}.txt"
    if not requirements.exists():
        raise ValueError(f"no environment {name!r}; there are {[OWN, *environments()]}")
    folder, failed = CACHE / name, CACHE / f"{name}.failed"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = folder / "requirements.txt"  # written last: an environment without it was never finished
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not installed.exists() or installed.read_text() != requirements.read_text():
            if failed.exists():
                raise Unavailable(failed.read_text())
            try:
                _make(name, folder, python)
            except Unavailable as error:
                failed.write_text(f"{error} (to try again: python -m benchmarks --environments make)")
                raise Unavailable(failed.read_text()) from None
            shutil.copyfile(requirements, installed)
    return str(python)


def forget_failures() -> None:
    """Let `python_of` try again what could not be made before."""
    for failed in CACHE.glob("*.failed"):
        failed.unlink()
    python_of.cache_clear()


def _make(name: str, folder: Path, python: Path) -> None:
    print(f"making the environment {name} in {folder.relative_to(PROJECT)}", file=sys.stderr, flush=True)
    requirements = REQUIREMENTS / f"{name}.txt"
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if "torch" in requirements.read_text() and sys.platform == "linux" and shutil.which("nvidia-smi") is None:
        install_cpu_torch(pip)
    made = subprocess.run([*pip, "-r", str(requirements)], cwd=PROJECT, check=False, capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(folder)
        lines = [" ".join(line.split()) for line in made.stderr.splitlines()]
        said = [line for word in ("fatal:", "ERROR:", "error:") for line in lines if line.startswith(word)]
        raise Unavailable(f"environment {name} cannot be made here: {(said or ['pip failed'])[0]}")


def versions(name: str) -> dict[str, str]:
    """Distribution -> version of what an environment is for."""
    if name == OWN:
        return {one: _version(one) for one in OWN_LIBRARIES}
    wanted = [re.split(r"[\s<>=@]", line)[0] for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines()]
    places = [str(path) for path in (CACHE / name).glob("lib/python*/site-packages")]
    found = {one.name.lower(): one.version for one in metadata.distributions(path=places)}
    return {one: found.get(one.lower(), "not installed") for one in wanted}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
