"""Arrays and archives that others made: pickles, .npy files, zip and tar."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from seglens.cli import app
from seglens.cohorts.case import ImageRef
from seglens.cohorts.image2d import read_plane
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.pickled import affine_of, convert_pickles
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError, read_volume
from seglens.foreign import archives
from seglens.foreign.archives import ArchiveError, unpack
from seglens.foreign.arrays import ArrayError, parse_npy
from seglens.foreign.pickles import MAX_OBJECTS, MAX_STEPS, read_pickle

IMAGE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LABELS = (np.arange(24).reshape(2, 3, 4) % 3 * 20).astype(np.int16)


class Evil:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def pickled(tmp_path):
    def write(content, protocol=2):
        path = tmp_path / "case.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
        return path

    return write


@pytest.mark.parametrize("protocol", range(6))
def test_row_47_arrays_are_read_as_pickle_would(pickled, protocol):
    """A pickle of arrays, in any protocol, gives what Python's own unpickler gives."""
    held = (
        IMAGE,
        np.asfortranarray(LABELS.astype(">i2")),
        {"a": [1, 2.5, -(2**70), None, True, False, "é" * 300, b"\x00\xff" * 200]},
        [np.float64(3), np.array(5), IMAGE == 3, np.zeros((0, 3)), IMAGE.T, LABELS[:, ::2]],
        IMAGE,
    )
    read = read_pickle(pickled(held, protocol))
    assert read[2] == held[2]
    for mine, theirs in [*zip(read[3], held[3], strict=True), (read[0], held[0]), (read[1], held[1]), (read[4], IMAGE)]:
        assert np.array_equal(mine, theirs)
        assert np.asarray(mine).dtype == np.asarray(theirs).dtype


def test_row_47_old_numpy_and_python_2(pickled):
    """Names of NumPy 1 and texts of Python 2 are understood."""
    new = pickle.dumps(IMAGE, protocol=2)
    assert b"numpy._core" in new
    assert np.array_equal(read_pickle(pickled(new.replace(b"numpy._core", b"numpy.core"))), IMAGE)
    raw = np.array([1, 2], "<i2")
    old = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'i2'\nI0\nI1\n"
        b"tR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x00\\x02\\x00'\ntb."
    )
    assert np.array_equal(read_pickle(pickled(old)), raw)


CODE = {
    "os.system": b"cos\nsystem\n(S'touch ran'\ntR.",
    "builtins.eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "an instance": b"(ios\nsystem\n.",
    "an object": b"(cos\nsystem\no.",
    "a new object": b"\x80\x02cos\nsystem\n)\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pfile\n.",
    "a name alone": b"cos\nsystem\n.",
    "an array that is a function": b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
    "state of a name": b"cos\nsystem\n}b.",
}


@pytest.mark.parametrize("name", CODE)
def test_row_47_pickle_that_runs_code(pickled, tmp_path, name, monkeypatch):
    """A pickle that wants to call, import or make anything but an array is refused, and nothing of it has run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArrayError, match=r"case\.pkl: "):
        read_pickle(pickled(CODE[name]))
    assert not (tmp_path / "ran").exists()


def test_row_47_pickle_made_by_pickle(pickled, tmp_path):
    """What Python's own pickle would run is named in the message."""
    with pytest.raises(
        ArrayError, match=r"wants to call '(posix|nt)\.mkdir', .* do not open this file with Python's own"
    ):
        read_pickle(pickled((IMAGE, Evil(tmp_path / "ran"))))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([{}]), "only numbers are read"),
        (np.array(["text"]), "only numbers are read"),
        (np.array([1 + 2j]), "only numbers are read"),
        (np.zeros(2, [("a", "f4")]), "only numbers are read"),
        ({1, 2}, r"arrays do not need it|builtin(s|__)\.set"),
        ([[]] * (MAX_OBJECTS + 1), f"more than {MAX_OBJECTS} values"),
        (b"\x80\x02" + b"]" * 30 + b"a" * 29 + b".", "20 levels"),
        (b"\x80\x02" + b"N0" * MAX_STEPS + b"N.", f"more than {MAX_STEPS} instructions"),
        (b"\x80\x02NN.", "leaves 2 things"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "no sound pickle"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "no sound pickle"),
        (b"\x80\x02j\xff\xff\xff\x7f.", "no sound pickle"),
        (b"\x80\x02]q\x00h\x00a.", "20 levels"),
        (b"", "no sound pickle"),
        (b"<html>", "no sound pickle"),
        (pickle.dumps(IMAGE)[:-30], "no sound pickle"),
        (
            pickle.dumps(IMAGE, 2).replace(b"K\x02K\x03K\x04", b"K\x02K\x03K\x05"),
            r"shape \(2, 3, 5\) of float32 needs 120",
        ),
        (pickle.dumps(IMAGE, 2).replace(b"K\x02K\x03K\x04", b"K\x02K\x03J\xff\xff\xff\xff"), "legal are up to 8 whole"),
    ],
)
def test_row_47_pickle_that_is_no_pair_of_arrays(pickled, content, message):
    """Objects, bombs, loops and damage are refused within the bounds."""
    with pytest.raises(ArrayError, match=message):
        read_pickle(pickled(content))


DOUBLED = b")" + b"q\x000h\x00h\x00\x86" * 60
"""A tuple of itself twice, sixty times over: small in memory, without end for whoever walks through it."""


@pytest.mark.parametrize(
    "program",
    [
        b"}" + DOUBLED + b"K\x01s.",
        b"}(" + DOUBLED + b"K\x01u.",
        b"(" + DOUBLED + b"K\x01d.",
        DOUBLED + b"\x8c\x01a\x93.",
        b"\x8c\x05numpy\x8c\x05dtype\x93" + DOUBLED + b"\x85R.",
        b"\x8c\x07_codecs\x8c\x06encode\x93\x8c\x01a" + DOUBLED + b"\x86R.",
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x02f4\x85R" + DOUBLED + b"\x86R.",
        b"cnumpy.core.multiarray\n_reconstruct\n" + DOUBLED + b"K\x00K\x00\x87R.",
        b"cnumpy\ndtype\n\x8c\x02f4\x85R(K\x03" + DOUBLED + b"tb.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\n\x8c\x02u1\x85R" + DOUBLED + b"\x8c\x01CtR.",
    ],
)
def test_row_47_tuples_of_tuples_without_end(pickled, program):
    """A short program that nests one value in itself ends at once, also where a message would name that value."""
    with pytest.raises(ArrayError):
        read_pickle(pickled(b"\x80\x04" + program))


def test_row_47_one_text_made_into_bytes_again_and_again(pickled):
    """A short program may not unfold to much more than its own size."""
    program = b"\x80\x02X\x10\x27\x00\x00" + b"x" * 10_000 + b"q\x000"
    program += b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0" * 100 + b"N."
    with pytest.raises(ArrayError, match="more than twice its size"):
        read_pickle(pickled(program))
    with pytest.raises(ArrayError, match="over the cap of 10"):
        read_pickle(pickled(IMAGE), max_bytes=10)


def test_row_47_convert_pkl(tmp_path, capsys):
    """Pairs become NIfTI files on the grid that was said, and are read as a cohort."""
    (tmp_path / "IXI" / "Train").mkdir(parents=True)
    (tmp_path / "IXI" / "Train" / "subject 1.pkl").write_bytes(pickle.dumps((IMAGE, LABELS)))
    (tmp_path / "IXI" / "atlas.pkl").write_bytes(pickle.dumps((IMAGE.astype(np.float64), LABELS.astype(np.float32))))
    arguments = ["convert-pkl", str(tmp_path / "IXI"), "--out", str(tmp_path / "out"), "--orientation", "LIA"]
    assert app([*arguments, "--spacing-mm", "1", "2", "3"], exit_on_error=False, result_action="return_value") == 0
    image = nibabel.load(tmp_path / "out" / "imagesTr" / "Train-subject 1_0000.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("L", "I", "A")
    assert image.header.get_zooms() == (1, 2, 3)
    assert np.array_equal(np.asarray(image.dataobj), IMAGE)
    assert np.array_equal(read_volume(tmp_path / "out" / "labelsTr" / "atlas.nii.gz").data.max(), LABELS.max())
    cohort = read_cohort(tmp_path / "out")
    assert [case.id for case in cohort.cases] == ["Train-subject 1", "atlas"]
    assert cohort.labels == {0: "background", 20: "label_20", 40: "label_40"}
    with pytest.raises(ValueError, match="out exists; give another folder"):
        convert_pickles(tmp_path / "IXI", tmp_path / "out", orientation="LIA")


def test_row_47_convert_pkl_refuses_all_that_is_no_pair(tmp_path):
    """Every file that is no pair is named, and no folder is left."""
    odd = {
        "alone": IMAGE,
        "three": (IMAGE, LABELS, LABELS),
        "flat": (IMAGE[0], LABELS[0]),
        "other": (IMAGE, LABELS[:1]),
        "soft": (IMAGE, IMAGE / 2),
        "nan": (IMAGE, IMAGE * np.nan),
        "evil": Evil(tmp_path / "ran"),
        "empty": (IMAGE[:0], LABELS[:0]),
    }
    for name, content in (odd | {"good": (IMAGE, LABELS)}).items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ArrayError, match="8 of 9 files are refused") as caught:
        convert_pickles(tmp_path, tmp_path / "out", orientation="RAS")
    assert all(f"{name}.pkl: " in str(caught.value) for name in odd)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name or "ran" in path.name]


@pytest.mark.parametrize("orientation", ["", "LI", "LLA", "XYZ", "LIAS"])
def test_convert_pkl_needs_an_orientation(orientation, tmp_path):
    with pytest.raises(ValueError, match="say for each axis where it runs to"):
        convert_pickles(tmp_path, tmp_path / "out", orientation=orientation)
    with pytest.raises(ValueError, match="three positive sizes"):
        affine_of("RAS", (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"no \.pkl file there"):
        convert_pickles(tmp_path, tmp_path / "out", orientation="RAS")
    for name in ("a.pkl", "A.pkl"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="the same but for capitals"):
        convert_pickles(tmp_path, tmp_path / "out", orientation="RAS")


def npy(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def header(text, version=1):
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


BAD_NPY = {
    "objects": (npy(np.array([{"a": 1}, None])), "values of type object; only plain numbers"),
    "texts": (npy(np.array(["a", "bc"])), "only plain numbers"),
    "fields": (npy(np.zeros(2, [("a", "f4"), ("b", "O")])), "only plain numbers"),
    "complex": (npy(np.array([1j])), "only plain numbers"),
    "huge": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"), "0 are there"),
    "overflow": (header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**63}, 2), }}\n"), "legal are up to 8"),
    "negative": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "legal are up to 8"),
    "empty and huge": (
        header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {2**40}), }}\n"),
        "needs 0 bytes",
    ),
    "many axes": (
        header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 9}), }}\n"),
        "legal are up to 8",
    ),
    "truncated": (npy(IMAGE)[:-1], "needs 96 bytes, 95 are there"),
    "longer": (npy(IMAGE) + b"x", "needs 96 bytes, 97 are there"),
    "code for a header": (header("__import__('os').system('touch ran')\n"), "no sound .npy file"),
    "absurd header": (header("{'descr': '<f4'" + " " * 20_000, version=2), "no sound .npy file"),
    "deep header": (header("[" * 5000), "no sound .npy file"),
    "unknown version": (b"\x93NUMPY\x09\x00" + b"\x00" * 100, "no sound .npy file"),
    "a pickle": (pickle.dumps(IMAGE), "no sound .npy file"),
    "nothing": (b"", "no sound .npy file"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_row_49_npy_that_is_no_plain_array(tmp_path, name, monkeypatch):
    """A .npy with objects, or of another size than its shape, is refused before memory is taken; no code runs."""
    monkeypatch.chdir(tmp_path)
    content, message = BAD_NPY[name]
    with pytest.raises(ArrayError, match=rf"here\.npy: .*{message}"):
        parse_npy(content, "here.npy")
    path = tmp_path / "slice.npy"
    path.write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_plane(ImageRef(path))
    assert caught.value.code == ("corrupt" if content else "empty_file")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_row_49_plain_arrays(tmp_path, version):
    """Plain numbers are read as numpy.save wrote them, and serve as slices of a 2-D cohort."""
    for values in (LABELS, np.asfortranarray(IMAGE), IMAGE.astype(">f8"), IMAGE > 3, np.array(7), np.zeros((0, 2))):
        file = io.BytesIO()
        np.lib.format.write_array(file, values, version=version)
        assert np.array_equal(parse_npy(file.getvalue(), "x"), values)
    np.save(tmp_path / "p1_3.npy", IMAGE[0])
    plane, _ = read_plane(ImageRef(tmp_path / "p1_3.npy"))
    assert np.array_equal(plane, IMAGE[0])
    assert len(read_cohort(tmp_path, SourceOptions(images="{patient}_{slice}.npy"), sequences=["T1"]).cases) == 1
    np.save(tmp_path / "p1_3.npy", IMAGE[0, 0])
    with pytest.raises(VolumeError, match=r"its array is \(4,\); save one slice a file"):
        read_plane(ImageRef(tmp_path / "p1_3.npy"))


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def taped(path, entries):
    with tarfile.open(path, "w") as file:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def untouched(folder, *names):
    return sorted(entry.name for entry in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize(("pack", "name"), [(zipped, "a.zip"), (taped, "a.tar")])
def test_row_50_sound_archives(tmp_path, pack, name, capsys):
    """What is in a sound archive comes out as it went in."""
    archive = pack(tmp_path / name, [("top.json", b"{}"), ("a/b/c.nii.gz", b"\x1f\x8b" * 300)])
    command = ["unpack", str(archive), "--out", str(tmp_path / "out")]
    assert app(command, exit_on_error=False, result_action="return_value") == 0
    assert capsys.readouterr().out == f"2 files in {tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "a" / "b" / "c.nii.gz").read_bytes() == b"\x1f\x8b" * 300
    assert untouched(tmp_path, name, "out")
    with pytest.raises(ArchiveError, match="out exists"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(ValueError, match=rf"{name} is not a folder; .*unpack an archive by `seglens unpack"):
        read_cohort(archive)


def test_row_50_a_tape_of_the_folder_itself(tmp_path):
    """A tape that begins with the folder itself ("./") is sound."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text("{}")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "in", ".")
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == 1
    assert (tmp_path / "out" / "a.json").read_text() == "{}"


def test_a_zip_may_begin_with_a_program(tmp_path):
    packed = zipped(tmp_path / "a.zip", [("data.txt", b"1")]).read_bytes()
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\nexit\n" + packed)
    assert unpack(tmp_path / "b.zip", tmp_path / "out") == 1
    assert (tmp_path / "out/data.txt").read_bytes() == b"1"


def test_a_tape_that_ends_in_a_zip_is_a_tape(tmp_path):
    inner = zipped(tmp_path / "inner.zip", [("of the inner one", b"1")]).read_bytes()
    tape = taped(tmp_path / "a.tar", [("PK.json", b"{}"), ("inner.zip", inner)])
    assert zipfile.is_zipfile(tape)  # which goes by the end of the file
    assert unpack(tape, tmp_path / "out") == 2
    assert (tmp_path / "out" / "PK.json").read_bytes() == b"{}"
    assert (tmp_path / "out" / "inner.zip").read_bytes() == inner
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert unpack(tmp_path / "empty.zip", tmp_path / "none") == 0


@pytest.mark.parametrize("pack", [zipped, taped])
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "//evil", "C:/evil", "..\\evil", "a\\..\\..\\evil", "..", "a/.."]
)
def test_row_50_slip(tmp_path, name, pack):
    """An entry that leads out of the folder stops the unpacking before the first byte."""
    archive = pack(tmp_path / "a", [("good", b"1"), (name, b"2")])
    with pytest.raises(ArchiveError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert untouched(tmp_path, "a", "in")
    assert untouched(tmp_path / "in")


def test_row_50_links_and_devices(tmp_path):
    """Links and devices are refused: what is written behind one would land elsewhere."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc")
        file.writestr("link/passwd", "x")
    with pytest.raises(ArchiveError, match="'link' is a link or device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            info = tarfile.TarInfo("odd")
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        with pytest.raises(ArchiveError, match="'odd' is a link or device"):
            unpack(tmp_path / "a.tar", tmp_path / "out")
    assert untouched(tmp_path, "a.zip", "a.tar")


def test_row_50_bombs(tmp_path, monkeypatch):
    """An archive that unfolds out of all proportion, or to more than it says, is refused."""
    monkeypatch.setattr(archives, "GENEROUS_BYTES", 2**16)
    bomb = zipped(tmp_path / "bomb.zip", [("zeros", bytes(2**22))])
    with pytest.raises(ArchiveError, match=rf"would become {2**22}, more than 200 times; nothing was unpacked"):
        unpack(bomb, tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    many = zipped(tmp_path / "many.zip", [(str(number), b"") for number in range(4)])
    with pytest.raises(ArchiveError, match="more than 3 entries"):
        unpack(many, tmp_path / "out")
    with pytest.raises(ArchiveError, match="more than 3 entries"):
        unpack(taped(tmp_path / "many.tar", [(str(number), b"") for number in range(9)]), tmp_path / "out")
    liar = bytearray(zipped(tmp_path / "liar.zip", [("zeros", bytes(1000))]).read_bytes())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = liar.index(mark) + place
        liar[start : start + 4] = (10).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(liar)
    with pytest.raises(ArchiveError, match=r"longer than it says|Bad CRC|cannot be unpacked"):
        unpack(tmp_path / "liar.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_row_50_two_entries_of_one_name(tmp_path):
    """Two entries of one name, capitals aside, are refused: one would hide the other."""
    with pytest.raises(ArchiveError, match="two entries 'A/x'"):
        unpack(zipped(tmp_path / "a.zip", [("a/x", b"1"), ("A/x", b"2")]), tmp_path / "out")
    with pytest.raises(ArchiveError, match="'a' is a file and a folder"):
        unpack(zipped(tmp_path / "b.zip", [("a", b"1"), ("a/x", b"2")]), tmp_path / "out")
    assert untouched(tmp_path, "a.zip", "b.zip")


def test_row_50_damaged_archives(tmp_path):
    """A cut or flipped archive leaves nothing behind."""
    content = zipped(tmp_path / "a.zip", [("a", os.urandom(5000)), ("b", b"1")]).read_bytes()
    flipped = bytearray(content)
    flipped[2000] ^= 4
    for name, bad in (("cut", content[:3000]), ("flipped", bytes(flipped)), ("html", b"<html>"), ("empty", b"")):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ArchiveError, match=r"cannot be unpacked|neither a .zip nor a plain"):
            unpack(tmp_path / name, tmp_path / "out")
    with pytest.raises(ArchiveError, match="is not a file"):
        unpack(tmp_path / "nowhere", tmp_path / "out")
    tape = taped(tmp_path / "t.tar", [("a", bytes(5000))]).read_bytes()
    (tmp_path / "t.tar").write_bytes(tape[:3000])
    with pytest.raises(ArchiveError, match=r"shorter than it says|cannot be unpacked"):
        unpack(tmp_path / "t.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_row_50_more_than_the_disk(tmp_path, monkeypatch):
    """What does not fit on the disk is refused with both figures, before anything is written."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**20))
    archive = zipped(tmp_path / "a.zip", [("a", json.dumps([1]))])
    with pytest.raises(ValueError, match=r"a\.zip unpacked: about 32\.0 MiB of disk are needed, 1\.0 MiB are free"):
        unpack(archive, tmp_path / "out")
    assert untouched(tmp_path, "a.zip")


def pax_taped(path, header):
    """A .tar of one file, before it a pax header of these bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        extended = tarfile.TarInfo("extended")
        extended.type, extended.size = tarfile.XHDTYPE, len(header)
        file.addfile(extended, io.BytesIO(header))
        content = tarfile.TarInfo("a.txt")
        content.size = 3
        file.addfile(content, io.BytesIO(b"abc"))
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"0" * 200_000,
        b"20 comment=" + b"1" * 9 + b"\n" + b"7" * 100_000,
        b"110 comment=" + b"1" * 97 + b"\n",
        b"2 2 2 2 2 2 =",
        b"12 comment\n=",
        b"9999 path=a.txt\n",
        b"12 path=a.txt ",
        b"16 comment=" + b"a" * 4 + b"\n" + b" " * archives.MAX_PAX_BYTES,
    ],
    ids=["zeros", "digits behind", "digits inside", "short", "no value", "too long", "no end", "large"],
)
def test_row_88_pax_header_that_would_be_searched_for_minutes(tmp_path, monkeypatch, header):
    """Such a header is refused before the reader of .tar files sees it."""
    reached = []
    monkeypatch.setattr(tarfile.TarInfo, "_proc_pax", lambda *_: reached.append(1))
    with pytest.raises(ArchiveError, match="pax header in it is damaged or absurdly large; get it again"):
        unpack(pax_taped(tmp_path / "a.tar", header), tmp_path / "out")
    assert reached == [] and untouched(tmp_path, "a.tar")


def test_row_88_sound_pax_headers(tmp_path):
    """Long names, times and names that are not ASCII, which pax headers are for, come out as they were."""
    name = "f\u00fcr/" + "long-" * 40 + "name.txt"
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.pax_headers = 3, 1700000000.123456789, {"comment": "of the scanner"}
        file.addfile(info, io.BytesIO(b"abc"))
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == 1
    assert (tmp_path / "out" / name).read_bytes() == b"abc"
