"""Coverage-guided fuzzing by atheris: python -m tests.fuzz TARGET --seconds 60

A finding (an error that is no refusal, more than 2 GiB of memory, ten seconds for one input) ends the run with exit
code 1 or more; the input lies in tests/fuzz/cases/TARGET and is from then on a regression case.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS

CASES = Path(__file__).parent / "cases"
MEMORY_MIB = 2048
SECONDS_PER_INPUT = 10
MAX_INPUT = 2**14


def fuzz(name: str, seconds: int, corpus: Path, seed: int) -> None:
    """Run one target in this process, which libFuzzer ends."""
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.modules)):
        for module in target.modules:
            __import__(module)
    own = CASES / name
    own.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-max_len={MAX_INPUT}",
        f"-seed={seed}",
        f"-artifact_prefix={own}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.read)
    atheris.Fuzz()


def main() -> int:
    """Each target in a process of its own, for libFuzzer never comes back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=TARGETS, help="what to fuzz; without it all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder that keeps interesting inputs; default: none")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        fuzz(asked.target, asked.seconds, asked.corpus, asked.seed)
        return 0
    with tempfile.TemporaryDirectory(prefix="seglens-fuzz-") as folder:
        for name in [asked.target] if asked.target else TARGETS:
            corpus = (asked.corpus or Path(folder)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            for number, content in enumerate(TARGETS[name].seeds()):
                (corpus / f"seed-{number}").write_bytes(content)
            command = [sys.executable, "-m", "tests.fuzz", name, "--worker", "--corpus", str(corpus)]
            command += ["--seconds", str(asked.seconds), "--seed", str(asked.seed)]
            done = subprocess.run(command, check=False)
            if done.returncode:
                print(f"{name}: a finding, kept in {CASES / name}", file=sys.stderr)
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
