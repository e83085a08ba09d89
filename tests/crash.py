"""Kill a quick demo at random moments, run it again, and compare what it leaves with an undisturbed run.

python -m tests.crash --kills 10
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seglens.artifacts import read_artifact
from seglens.studies.run import Run


def demo(out: Path, seed: int) -> list[str]:
    """The command that is killed."""
    return [sys.executable, "-m", "seglens.cli", "demo", "--quick", "--out", str(out), "--seed", str(seed)]


def run_with_kills(out: Path, kills: int, *, seed: int = 0, longest: float = 40.0, draw: int = 0) -> list[float]:
    """Start the demo, `kill -9` it after a random time, again and again; then let it finish.

    Args:
        out: the run's folder.
        kills: how often.
        seed: of the demo.
        longest: the latest moment of a kill, seconds after a start.
        draw: seed of the moments.

    Returns:
        The moments.
    """
    chance = random.Random(draw)
    moments = [chance.uniform(2.0, longest) for _ in range(kills)]
    for moment in moments:
        process = subprocess.Popen(demo(out, seed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < moment:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = subprocess.run(demo(out, seed), capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"the last run failed: {finished.stderr[-2000:]}")
    return moments


def verified_hashes(out: Path) -> dict[str, str]:
    """Content hash of every stage, each file compared with its own."""
    run = Run(out)
    return {stage: read_artifact(run.artifact(stage).path, verify=True).hash for stage in run.stages()}


def main() -> int:
    """Compare; exit 1 where a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        started = time.monotonic()
        run_with_kills(undisturbed, 0)
        longest = time.monotonic() - started
        wanted = verified_hashes(undisturbed)
        different = 0
        for number in range(arguments.kills):
            out = disturbed / str(number)
            (moment,) = run_with_kills(out, 1, longest=longest, draw=number)
            same = verified_hashes(out) == wanted
            different += not same
            print(f"kill {number} after {moment:.1f} s: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{arguments.kills - different} of {arguments.kills} equal an undisturbed run ({len(wanted)} artifacts)")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
