"""Set up a fresh machine and run something there: needs Python 3.11 to 3.13 with pip, nothing else.

    python bootstrap.py demo [ARGUMENTS]    install, then `seglens demo --out demo`
    python bootstrap.py tests [ARGUMENTS]   install with the test extra, then the tests (-m "not slow and not browser")

Both install into the virtual environment `.venv` beside this file, with the exact versions of constraints.txt. Where
there is no NVIDIA GPU, torch comes as the small CPU build.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


def main(arguments: list[str]) -> int:
    """Install, run, and return the exit code of what was run."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"Python 3.11 to 3.13 is needed; this is {sys.version.split()[0]} ({sys.executable})", file=sys.stderr)
        return 2
    if not arguments or arguments[0] not in {"demo", "tests"}:
        print(__doc__, file=sys.stderr)
        return 2
    what, rest = arguments[0], arguments[1:]
    python = set_up(tests=what == "tests")
    if what == "demo":
        out = [] if "--out" in rest else ["--out", "demo"]
        return subprocess.run([python, "-m", "seglens.cli", "demo", *out, *rest], cwd=HERE, check=False).returncode
    which = [] if "-m" in rest else ["-m", "not slow and not browser"]
    return subprocess.run([python, "-m", "pytest", *which, *rest], cwd=HERE, check=False).returncode


def set_up(*, tests: bool) -> str:
    """Make the environment where it is missing, install into it, and return its Python."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making the virtual environment {ENVIRONMENT.name}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    print("installing (a few minutes the first time)", flush=True)
    if sys.platform == "linux" and shutil.which("nvidia-smi") is None:
        install_cpu_torch(pip)
    subprocess.run([*pip, "--editable", ".[test]" if tests else "."], cwd=HERE, check=True)
    return str(python)


def install_cpu_torch(pip: list[str]) -> None:
    """Take torch from the index of CPU builds; a package index that is set up to serve a CPU build does as well."""
    version = next(line for line in (HERE / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    attempt = subprocess.run(
        [*pip, "--no-deps", "--retries", "0", "--timeout", "20", "--index-url", CPU_TORCH, version],
        cwd=HERE,
        check=False,
        capture_output=True,
        text=True,
    )
    if attempt.returncode:
        print(f"{CPU_TORCH} did not answer; torch comes from your package index and may be a large build", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
