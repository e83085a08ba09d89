"""Inspect this machine, and name what on it would break a run."""

import importlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("torch", "transformers", "monai", "numpy", "scipy", "lapx", "polars", "safetensors", "nibabel")
GIB = 2**30


def examine(folder: Path = Path()) -> tuple[str, bool]:
    """Look at versions, devices, memory, disk and torchvision.

    Args:
        folder: where runs will be written; its disk is looked at.

    Returns:
        The findings as text, and whether everything needed works.
    """
    lines = [f"python        {sys.version.split()[0]} on {platform.platform()}"]
    missing = []
    for name in ("med-seglens", *PACKAGES):
        try:
            lines.append(f"{name:<13} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name != "med-seglens":
                missing.append(name)
    from seglens.runtime.provenance import Provenance

    lines += [*_devices(), *_memory(folder), f"record        {Provenance.current().text}"]
    problems = [f"{name} is not installed; run pip install {name}" for name in missing]
    torchvision = torchvision_problem()
    if torchvision:
        problems.append(torchvision)
    lines += [f"PROBLEM       {problem}" for problem in problems] or ["all is well"]
    return "\n".join(lines), not problems


def torchvision_problem() -> str | None:
    """A torchvision that does not match torch stops transformers from importing; say so, with the fix.

    Imported in a process of its own, for a broken one leaves a half-imported module behind.
    """
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return None
    attempt = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if attempt.returncode == 0:
        return None
    reason = attempt.stderr.strip().splitlines()[-1] if attempt.stderr.strip() else "import failed"
    return (
        f"torchvision {version} does not work with the installed torch ({reason}), and transformers imports it; "
        "Med-SegLens does not need it: pip uninstall torchvision"
    )


def _devices() -> list[str]:
    import torch

    lines = [f"threads       {torch.get_num_threads()}"]
    fast = torch.cpu._is_amx_tile_supported()
    lines.append(f"cpu           {platform.processor() or platform.machine()}; fast bf16: {'yes' if fast else 'no'}")
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        lines.append(f"gpu {number}         {properties.name}, {properties.total_memory / GIB:.1f} GiB")
    return lines if torch.cuda.device_count() else [*lines, "gpu           none"]


def _memory(folder: Path) -> list[str]:
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    return [
        f"memory        {memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}",
        f"disk          {disk.free / GIB:.1f} GiB free of {disk.total / GIB:.1f}",
    ]
