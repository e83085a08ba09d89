"""What is fuzzed: every reader of foreign bytes, each with sound seeds and the one error that it may raise."""

import gzip
import json
import pickle
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.fuzz import bundles, checkpoint, dataset, plans

MAX_VOLUME = 2**22


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: takes the bytes; must return, or raise ``refusal``.
        modules: those whose branches guide the fuzzer.
        seeds: sound inputs to begin with.
    """

    read: Callable[[bytes], None]
    modules: Sequence[str]
    seeds: Callable[[], Sequence[bytes]]


def nifti(content: bytes) -> None:
    """`read_volume`; the first byte says whether the rest is packed before it is read."""
    from seglens.cohorts.volumes import VolumeError, read_volume

    body = gzip.compress(content[1:], 1) if content[:1] == b"\1" else content[1:]
    with _file(body) as path:
        try:
            volume = read_volume(path, max_bytes=MAX_VOLUME)
        except VolumeError as error:
            _must_help(error, path)
            return
    assert volume.data.ndim == 3
    assert volume.data.size > 0
    assert np.isfinite(volume.data).all()
    assert np.isfinite(volume.affine).all()


def unpickler(content: bytes) -> None:
    """`read_pickle`."""
    from seglens.foreign.arrays import ArrayError
    from seglens.foreign.pickles import read_pickle

    with _file(content) as path:
        try:
            held = read_pickle(path)
        except ArrayError as error:
            _must_help(error, path)
            return
    _must_be_plain(held)


def npy(content: bytes) -> None:
    """`parse_npy`."""
    from seglens.foreign.arrays import ArrayError, parse_npy

    try:
        values = parse_npy(content, "here.npy")
    except ArrayError as error:
        _must_help(error, Path("here.npy"))
        return
    assert values.dtype.kind in "biuf"


def png(content: bytes) -> None:
    """`parse_png`; the first byte says whether checksums are mended first, and whether the pixels are packed first."""
    from seglens.foreign.pictures import PictureError
    from seglens.foreign.png import SIGNATURE, parse_png

    raw = SIGNATURE + content[1:]
    if content[:1] in (b"\1", b"\2"):
        raw = SIGNATURE + _mended(content[1:], packed=content[:1] == b"\2")
    try:
        picture = parse_png(raw)
    except PictureError as error:
        assert error.what
        assert len(str(error)) < 1000
        assert " at 0x" not in str(error)
        return
    height, width, n = picture.samples.shape
    assert 0 < picture.n_colours <= n
    if picture.samples.size > 4096:
        return
    import png as pypng

    try:
        _, _, rows, _ = pypng.Reader(bytes=raw).read()
        other = np.array([list(row) for row in rows]).reshape(height, width, n)
    except pypng.Error:  # stricter about chunks that say nothing of pixels
        return
    np.testing.assert_array_equal(picture.samples, other)


def tiff(content: bytes) -> None:
    """`parse_tiff`."""
    from seglens.foreign.pictures import MAX_PICTURE_BYTES, PictureError
    from seglens.foreign.tiff import SIGNATURES, parse_tiff

    try:
        picture = parse_tiff(SIGNATURES[content[0] % 4] + content[4:] if content else b"II*\0")
    except PictureError as error:
        assert error.what
        assert len(str(error)) < 1000
        assert " at 0x" not in str(error)
        return
    assert picture.samples.ndim == 3
    assert 0 < picture.samples.nbytes <= MAX_PICTURE_BYTES
    assert 0 < picture.n_colours <= picture.samples.shape[2]
    assert picture.samples.dtype.kind in "uif"


def study(content: bytes) -> None:
    """`StudySettings.read`: the YAML loader and what becomes of its values."""
    from seglens.studies.settings import SettingsError, StudySettings

    with _file(content) as path:
        try:
            StudySettings.read(path)
        except SettingsError as error:
            _must_help(error, path)


def safetensors(content: bytes) -> None:
    """`check_safetensors`: what it lets pass, the library must read, with the sizes that the header says."""
    from safetensors.numpy import load

    from seglens.foreign.tensors import WeightsError, check_safetensors

    with _file(content) as path:
        try:
            check_safetensors(path)
        except WeightsError as error:
            _must_help(error, path)
            return
    if b"F8_" not in content and b"BF16" not in content:  # NumPy has no such types
        assert sum(values.nbytes for values in load(content).values()) <= len(content)


def archive(content: bytes) -> None:
    """`unpack`: whatever comes out lies in the folder."""
    from seglens.foreign.archives import ArchiveError, unpack
    from seglens.runtime.resources import InsufficientResourcesError

    with tempfile.TemporaryDirectory(prefix="seglens-fuzz-") as folder:
        path, out = Path(folder) / "a", Path(folder) / "in" / "out"
        path.write_bytes(content)
        try:
            unpack(path, out)
        except (ArchiveError, InsufficientResourcesError) as error:
            _must_help(error, path)
            assert not out.exists()
        assert {entry.name for entry in Path(folder).iterdir()} <= {"a", "in"}
        assert {entry.name for entry in (Path(folder) / "in").glob("*")} <= {"out"}


def _mended(chunks: bytes, *, packed: bool) -> bytes:
    """Chunks of a PNG with right lengths and checksums; their pixels packed where they are not."""
    made, at = b"", 0
    while at + 8 <= len(chunks):
        length, kind = struct.unpack_from(">I4s", chunks, at)
        content = chunks[at + 8 : at + 8 + length]
        if packed and kind == b"IDAT":
            content = zlib.compress(content)
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        at += 12 + length
    return made


def _must_be_plain(held: object) -> None:
    if isinstance(held, tuple | list):
        for part in held:
            _must_be_plain(part)
    elif isinstance(held, dict):
        _must_be_plain(list(held.items()))
    else:
        assert held is None or isinstance(held, bool | int | float | str | bytes | np.generic | np.ndarray)


def _must_help(error: ValueError, path: Path) -> None:
    """A refusal names the file and says more than nothing; it never carries the whole input."""
    assert str(path) in str(error), str(error)
    assert len(str(error)) < 10_000


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """A file of these bytes for the length of a block."""
    with tempfile.NamedTemporaryFile(prefix="seglens-fuzz-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _volumes() -> list[bytes]:
    import nibabel

    rng = np.random.default_rng(0)
    made = []
    for kind in ("int16", "uint8", "float32", "float64"):
        image = nibabel.Nifti1Image(rng.integers(0, 9, (3, 4, 2)).astype(kind), np.diag([-1, -1, 2, 1]))
        image.header.set_slope_inter(2, 1)
        made += [packed + image.to_bytes() for packed in (b"\0", b"\1")]
    swapped = nibabel.Nifti1Image(
        np.arange(8, dtype=">i2").reshape(2, 2, 2), np.eye(4), nibabel.Nifti1Header(endianness=">")
    )
    return [*made, b"\0" + swapped.to_bytes(), b"\0" + gzip.compress(made[0][1:])]


def _pickles() -> list[bytes]:
    pair = (np.zeros((2, 3, 2), np.float32), np.asfortranarray(np.arange(12, dtype=np.int16).reshape(2, 3, 2)))
    held = (pair, [pair[0], np.float64(1), np.array(3)], {"a": (1, 2.5, None, "é", b"\xff", True, 2**70)})
    return [pickle.dumps(one, protocol) for one in (pair, held) for protocol in range(6)]


def _npys() -> list[bytes]:
    import io

    made = []
    for version in ((1, 0), (2, 0), (3, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, np.arange(6, dtype=np.int16).reshape(2, 3), version=version)
        made.append(file.getvalue())
    return made


def _pngs() -> list[bytes]:
    from tests.png_files import CHANNELS, DEPTHS, chunk, header, png_file, rows_of

    rng = np.random.default_rng(0)
    made = []
    for colour, depths in DEPTHS.items():
        for depth in depths:
            samples = rng.integers(0, 2**depth, (4, 5, CHANNELS[colour]))
            interlaced = depth in (2, 16)
            made.append(b"\1" + png_file(samples, depth, colour, interlaced=interlaced)[8:])
            rows = chunk(b"IDAT", rows_of(samples, depth, (4, 1), interlaced=interlaced))
            made.append(b"\2" + header(5, 4, depth, colour, interlaced=interlaced) + rows + chunk(b"IEND"))
    extras = chunk(b"gAMA", bytes(4)) + chunk(b"tRNS", b"\0\1") + chunk(b"tEXt", b"a\0b") + chunk(b"acTL", bytes(8))
    return [*made, b"\0" + png_file(samples, 16, 6)[8:], b"\1" + png_file(samples[..., :1], 16, 0, before=extras)[8:]]


def _tiffs() -> list[bytes]:
    import io

    import tifffile

    rng = np.random.default_rng(0)
    made = []
    ways = ({}, {"rowsperstrip": 3}, {"tile": (16, 16)}, {"bigtiff": True}, {"predictor": True, "byteorder": ">"})
    for packing in (None, "lzw", "deflate", "packbits"):
        for way in ways:
            for kind, n, photometric in (("u1", 1, "miniswhite"), ("u2", 3, "rgb"), ("f4", 1, "minisblack")):
                samples = rng.integers(0, 200, (9, 7, n)).astype(kind)
                file = io.BytesIO()
                predictor = way.get("predictor", False) and packing in ("lzw", "deflate")
                options = {**way, "predictor": predictor, "compression": packing}
                tifffile.imwrite(file, samples.squeeze(), photometric=photometric, metadata=None, **options)
                made.append(file.getvalue())
    return made


def _studies() -> list[bytes]:
    from seglens.studies.example import EXAMPLE

    aliases = (
        b"a: &a {x: 1, y: [1.5, yes, ~, 2026-01-01]}\nb: {<<: *a, z: !!str 3}\nc: >\n  text\n  more\nd: [*a, *a]\n"
    )
    return [
        EXAMPLE.encode(),
        aliases,
        b"sequences: [T1]\ncohorts: {a: {phantom: {population: adult}}}\nsegmenters: {}\n",
    ]


def _safetensors() -> list[bytes]:
    def packed(header: Mapping[str, object], data: bytes) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    two = {
        "__metadata__": {"a": "b"},
        "w": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "I8", "shape": [], "data_offsets": [8, 9]},
        "e": {"dtype": "U16", "shape": [0, 3], "data_offsets": [9, 9]},
    }
    return [
        packed(two, bytes(9)),
        packed({}, b""),
        packed({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"ab"),
    ]


def _archives() -> list[bytes]:
    import io
    import tarfile
    import zipfile

    made = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", packing) as zipped:
            zipped.writestr("a/b.txt", b"text" * 20)
            zipped.writestr("c", b"")
        made.append(file.getvalue())
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tape:
        info = tarfile.TarInfo("a/b")
        info.size = 3
        tape.addfile(info, io.BytesIO(b"abc"))
    return [*made, file.getvalue()]


TARGETS: Mapping[str, Target] = {
    "nifti": Target(nifti, ["seglens.cohorts.volumes"], _volumes),
    "unpickler": Target(unpickler, ["seglens.foreign.pickles", "seglens.foreign.arrays", "pickletools"], _pickles),
    "npy": Target(npy, ["seglens.foreign.arrays", "numpy.lib._format_impl"], _npys),
    "png": Target(png, ["seglens.foreign.png", "seglens.foreign.pictures"], _pngs),
    "tiff": Target(tiff, ["seglens.foreign.tiff", "seglens.foreign.tiff_segments", "seglens.foreign.pictures"], _tiffs),
    "study": Target(study, ["seglens.foreign.yaml_text", "seglens.studies.settings", "yaml"], _studies),
    "dataset": Target(
        dataset.read,
        [
            "seglens.foreign.json_text",
            "seglens.cohorts.data_json",
            "seglens.cohorts.nnunet",
            "seglens.cohorts.msd",
            "seglens.cohorts.case",
            "seglens.cohorts.label_names",
            "json",
        ],
        dataset.seeds,
    ),
    "bundles": Target(
        bundles.read,
        ["seglens.foreign.bundles", "seglens.foreign.bundle_config", "seglens.foreign.bundle_steps", "json"],
        bundles.seeds,
    ),
    "plans": Target(
        plans.read,
        ["seglens.foreign.plans", "seglens.foreign.plan_network", "seglens.foreign.json_fields", "json"],
        plans.seeds,
    ),
    "safetensors": Target(safetensors, ["seglens.foreign.tensors"], _safetensors),
    "checkpoint": Target(
        checkpoint.read,
        ["seglens.foreign.torch_files", "seglens.foreign.pickles", "pickletools", "zipfile"],
        checkpoint.seeds,
    ),
    "archive": Target(archive, ["seglens.foreign.archives", "zipfile", "tarfile"], _archives),
}
