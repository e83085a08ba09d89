"""Reading a case of BraTS's size: what the guard costs over plain nibabel.

The guard reads every gzip stream to its end and compares its checksum, takes the sha256 of the file, refuses voxels
that are not finite and images that are constant. Both readers give float32 voxels in canonical orientation. All keep
freed memory as the command ``seglens`` does: else the system's zeroing of new pages is most of what is timed.

Of plain files the sha256 alone takes longer than nibabel, which maps the file and hashes nothing: there the guard is to
be compared with reading and hashing, which has a row of its own. Packed files are small to hash and slow to unpack.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.framework import Benchmark, Repeat, Subject

SHAPE = (240, 240, 155)
SEQUENCES = ("t1", "t1ce", "t2", "flair")


def written_case(case: Mapping[str, Any]) -> "tuple[tempfile.TemporaryDirectory[str], list[Path]]":
    """Four sequences and a mask of a head-like shape, in a folder that goes with what is returned."""
    import nibabel
    import numpy as np

    folder = tempfile.TemporaryDirectory()
    generator = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij", sparse=True)
    # as in BraTS: about a sixth of the grid is brain, the rest exactly zero
    brain = (x / 0.62) ** 2 + (y / 0.75) ** 2 + (z / 0.85) ** 2 < 1
    lesion = (x - 0.2) ** 2 + (y + 0.1) ** 2 + z**2 < 0.05
    head = np.where(brain, generator.normal(400, 60, SHAPE).astype(np.float32), 0)
    paths = [Path(folder.name) / f"{name}{case['ending']}" for name in (*SEQUENCES, "seg")]
    for number, path in enumerate(paths):
        is_mask = path.name.startswith("seg")
        values = np.where(lesion, 2, 0).astype(np.uint8) if is_mask else (head * (1 + number)).astype(case["dtype"])
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    return folder, paths


def guarded(case: Mapping[str, Any]) -> Repeat:
    """`read_volume`, as check and cut read a file."""
    from seglens.cohorts.volumes import read_volume

    folder, paths = written_case(case)
    return lambda: ([read_volume(path, constant=True).data for path in paths], folder)


def plain_nibabel(case: Mapping[str, Any]) -> Repeat:
    """Nibabel's own reading."""
    import nibabel
    import numpy as np

    folder, paths = written_case(case)

    def read(path: Path) -> object:
        return nibabel.as_closest_canonical(nibabel.load(path)).get_fdata(dtype=np.float32)

    return lambda: ([read(path) for path in paths], folder)


def inflated(case: Mapping[str, Any]) -> Repeat:
    """The bytes alone, unpacked."""
    import zlib

    folder, paths = written_case(case)

    def read(path: Path) -> object:
        raw = path.read_bytes()
        return zlib.decompress(raw, wbits=31) if case["ending"] == ".nii.gz" else raw

    return lambda: ([read(path) for path in paths], folder)


def hashed(case: Mapping[str, Any]) -> Repeat:
    """The bytes alone, read and hashed, not unpacked."""
    import hashlib

    folder, paths = written_case(case)
    return lambda: ([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths], folder)


def load() -> None:
    """What the subjects use."""
    import nibabel  # noqa: F401

    import seglens.cohorts.volumes  # noqa: F401
    from seglens.runtime.malloc import keep_freed_memory

    keep_freed_memory()


BENCHMARK = Benchmark(
    name="guard",
    title="A case of BraTS's size (five files of 240 x 240 x 155) from disk to canonical float32 voxels.",
    cases={
        "int16, gzip": {"dtype": "int16", "ending": ".nii.gz"},
        "float32, gzip": {"dtype": "float32", "ending": ".nii.gz"},
        "int16, plain": {"dtype": "int16", "ending": ".nii"},
    },
    subjects=[
        Subject("seglens, guarded", "ours", guarded, load=load),
        Subject("nibabel", "peer", plain_nibabel, load=load),
        Subject("floor: unpacked bytes alone", "floor", inflated, load=load),
        Subject("sha256 of the files alone", "other", hashed, load=load),
    ],
    repeats=5,
)
