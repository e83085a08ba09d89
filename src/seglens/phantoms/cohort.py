"""Phantom cohorts on disk, in the nnU-Net raw layout."""

import gzip
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np

from seglens.phantoms.populations import resolve, sources
from seglens.phantoms.subject import SEQUENCES, PhantomSubject, make_subject
from seglens.phantoms.tissue import HEALTHY_LABELS, TUMOUR_LABELS
from seglens.runtime.atomic import whole_folder
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk
from seglens.runtime.signals import follow_parent

TRUTH = "subjects.json"
BYTES_A_PIXEL = 4
"""Four packed images and a mask take 2 to 3."""
NO_FACTORS: Mapping[str, str] = {}


def write_phantom_cohort(
    folder: Path,
    population: str,
    *,
    subjects: int,
    seed: int,
    factors: Mapping[str, str] = NO_FACTORS,
    size: int = 128,
    slices: int = 10,
    workers: int = 1,
    progress: Progress = silent,
) -> Path:
    """Write a cohort of phantom subjects with planted truth.

    Args:
        folder: where it goes; must not exist, or be empty. It appears when it is whole.
        population: ``adult``, ``pediatric``, ``ssa`` or ``healthy``.
        subjects: how many.
        seed: every byte follows from it.
        factors: single differences switched on, such as ``{"noise": "ssa"}``; see ``populations.FACTORS``.
        size: rows and columns of a slice; the field of view is 208 mm.
        slices: axial slices a subject; they cover the lesion (healthy: from the cerebellum to above the caudate).
        workers: processes; the bytes do not depend on it.
        progress: told after each subject.

    Returns:
        The folder: ``dataset.json``, ``imagesTr/<id>_0000.nii.gz`` to ``_0003`` (T1, T1c, T2, FLAIR),
        ``labelsTr/<id>.nii.gz``, and ``subjects.json``, the planted truth of each subject.

    Raises:
        ValueError: an unknown population or factor, a number below 1, or a folder that holds something.

    Example:
        >>> small = {"subjects": 1, "size": 32, "slices": 3}
        >>> folder = write_phantom_cohort(Path("adult-noisy"), "adult", **small, seed=0, factors={"noise": "ssa"})
        >>> sorted(path.name for path in folder.iterdir())
        ['dataset.json', 'imagesTr', 'labelsTr', 'subjects.json']
    """
    resolve(population, factors)
    for name, value, least in (
        ("subjects", subjects, 1),
        ("size", size, 16),
        ("slices", slices, 1),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; remove it or write to another folder")
    require_disk(folder, subjects * slices * size**2 * BYTES_A_PIXEL, f"a cohort of {subjects} phantoms")
    if folder.exists():
        folder.rmdir()
    with whole_folder(folder) as partial_folder:
        for name in ("imagesTr", "labelsTr"):
            (partial_folder / name).mkdir()
        job = partial(
            _write_subject,
            folder=partial_folder,
            population=population,
            seed=seed,
            factors=dict(factors),
            size=size,
            slices=slices,
        )
        truths = []
        for done, truth in enumerate(_each(job, subjects, workers), start=1):
            truths.append(truth)
            progress(done, subjects)
        labels = HEALTHY_LABELS if resolve(population, factors).place is None else TUMOUR_LABELS
        dataset = {
            "name": f"phantom {population}",
            "description": "Synthetic MR of a phantom population; the planted truth is in subjects.json",
            "channel_names": {str(number): name for number, name in enumerate(SEQUENCES)},
            "labels": {name: value for value, name in labels.items()},
            "numTraining": subjects,
            "file_ending": ".nii.gz",
        }
        record = {
            "population": population,
            "sources": sources(population, factors),
            "seed": seed,
            "factors": dict(factors),
            "size": size,
            "slices": slices,
            "subjects": truths,
        }
        (partial_folder / "dataset.json").write_text(json.dumps(dataset, indent=1) + "\n", encoding="utf-8")
        text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
        (partial_folder / TRUTH).write_text(text + "\n", encoding="utf-8")
    return folder


def _each(job: Any, subjects: int, workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(job, range(subjects))
        return
    with ProcessPoolExecutor(min(workers, subjects), mp_context=_context(), initializer=follow_parent) as pool:
        yield from pool.map(job, range(subjects))


def _context() -> BaseContext:
    if sys.platform != "linux":
        return get_context("spawn")
    # one server imports, and the workers of all cohorts are forked from it: importing costs as much as six subjects
    context = get_context("forkserver")
    context.set_forkserver_preload(["seglens.phantoms.subject", "nibabel", "scipy.ndimage", "scipy.sparse"])
    return context


def _write_subject(
    subject: int, *, folder: Path, population: str, seed: int, factors: Mapping[str, str], size: int, slices: int
) -> dict[str, Any]:
    made = make_subject(
        resolve(population, factors),
        seed=seed,
        subject=subject,
        size=size,
        slices=slices,
    )
    name = f"{population}-{subject:04d}"
    for channel, image in enumerate(made.images):
        _write_nifti(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image, made)
    _write_nifti(folder / "labelsTr" / f"{name}.nii.gz", made.labels, made)
    return {"id": name, **made.truth}


def _write_nifti(path: Path, values: np.ndarray, subject: PhantomSubject) -> None:
    import nibabel

    image = nibabel.nifti1.Nifti1Image(values, subject.affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"phantom, slice thickness {subject.truth['slices']['thickness_mm']:.2f} mm".encode()
    # no time and no name in the gzip header: same seed, same bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
