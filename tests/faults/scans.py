"""Small cohorts as NIfTI files, and ways to spoil them."""

import gzip
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from seglens.cohorts.findings import CheckReport

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""BraTS's own axes, 1 mm."""
NAMES = {"old": ("_", ("t1", "t1ce", "t2", "flair")), "new": ("-", ("t1n", "t1c", "t2w", "t2f"))}
"""How BraTS ends a case's files: what stands before the sequence, and the sequences."""


def head(
    seed: int = 0, shape: tuple[int, int, int] = (24, 28, 12), enhancing: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """A stripped ball-like brain and a lesion in the patient's left front; arrays [x y z] with axes LPS."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = x**2 + y**2 + 0.5 * z**2 < 0.8
    image = np.where(brain, rng.integers(100, 200, shape), 0).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2 < 0.15) & brain] = 2
    mask[((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2 < 0.06) & brain] = enhancing
    image[mask > 0] += 100
    return image, mask


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """A file of an array [x y z]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def write_cohort(
    root: Path, ids: Sequence[str] = ("a", "b"), *, style: str = "old", seed: int = 0, n_sequences: int = 2
) -> Path:
    """BraTS cases with a mask and the first of T1, T1c, T2, FLAIR; named as until 2021 (``old``) or from 2023."""
    separator, tags = NAMES[style]
    for number, case_id in enumerate(ids):
        for channel, tag in enumerate((*tags[:n_sequences], "seg")):
            image, mask = head(seed + 10 * number + channel, enhancing=4 if style == "old" else 3)
            path = root / case_id / f"{case_id}{separator}{tag}.nii.gz"
            write_nifti(path, mask if tag == "seg" else image)
    return root


def healthy(path: Path) -> Path:
    """One file with nothing wrong: int16."""
    return write_nifti(path, head()[0])


def unpacked(path: Path) -> bytes:
    """The NIfTI file inside of a .nii.gz."""
    return gzip.decompress(path.read_bytes())


def put(content: bytes, at: int, kind: str, *values: float) -> bytes:
    """The same bytes with some of them replaced by little-endian numbers."""
    changed = bytearray(content)
    struct.pack_into("<" + kind, changed, at, *values)
    return bytes(changed)


@contextmanager
def failing(path: Path, number: int, does: str = "open") -> Iterator[None]:
    """While it lasts, to open a file (or to ``stat`` it) fails as without permission, or on a disk that fails.

    A test that runs as root cannot take the permission away from itself.
    """
    whole = getattr(Path, does)

    def or_fails(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(number, os.strerror(number), str(path))
        return whole(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, does, or_fails)
        yield


def codes(report: CheckReport, severity: str = "quarantine") -> dict[str, list[str]]:
    """The codes of a report's findings by case."""
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.severity == severity:
            found.setdefault(finding.case, []).append(finding.code)
    return found
