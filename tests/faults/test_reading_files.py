"""Rows 1 to 12 and 22: one damaged or hostile file, and what `read_volume` says of it."""

import errno
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.faults.scans import codes, failing, head, healthy, put, unpacked, write_cohort, write_nifti

from seglens.cohorts.case import ImageRef
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.image2d import read_plane
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError, read_volume

DIMENSIONS, DATATYPE, OFFSET, SCALE, SFORM = 40, 70, 108, 112, 280
"""Where a NIfTI-1 header keeps them."""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return healthy(tmp_path / "good.nii.gz")


def refusal(path: Path, content: bytes) -> VolumeError:
    """What is said of these bytes; every refusal names the file and a fix."""
    path.write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix in str(caught.value)
    return caught.value


@pytest.mark.parametrize("share", [0.01, 0.4, 0.9, 0.9999])
def test_row_01_truncated(tmp_path: Path, good: Path, share: float) -> None:
    """A truncated .nii or .nii.gz is quarantined with the bytes it holds and those it needs."""
    packed, plain = good.read_bytes(), unpacked(good)
    short = packed[: int(len(packed) * share)]
    said = refusal(tmp_path / "t.nii.gz", short)
    assert said.code == "truncated"
    assert f"holds {len(short)} bytes" in said.what
    if len(short) > 500:  # enough for the header, which says what is needed
        assert f"of {len(plain)} unpacked bytes" in said.what
    said = refusal(tmp_path / "t.nii", plain[: int(len(plain) * share)])
    assert said.code == "truncated"
    assert f"holds {int(len(plain) * share)} bytes" in said.what


def test_row_01_truncated_picture(tmp_path: Path) -> None:
    """A truncated PNG is quarantined with the bytes it holds."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VolumeError, match=f"its {path.stat().st_size} bytes are no readable PNG"):
        read_plane(ImageRef(path))


def flipped(packed: bytes, place: int) -> bytes:
    content = bytearray(packed)
    content[place // 8] ^= 1 << (place % 8)
    return bytes(content)


@pytest.mark.parametrize("seed", range(3))
def test_row_02_sixty_flipped_bits(tmp_path: Path, seed: int) -> None:
    """Of 60 single flipped bits in a .nii.gz 60 are caught at first sight."""
    # noise: no bit of the stream but its header's time is without meaning
    noise = np.random.default_rng(seed).integers(0, 2**15, (24, 28, 12)).astype(np.int16)
    path = write_nifti(tmp_path / "noise.nii.gz", noise)
    packed = path.read_bytes()
    places = np.random.default_rng(seed).choice(np.arange(80, 8 * len(packed)), 60, replace=False)
    assert {refusal(path, flipped(packed, place)).code for place in places.tolist()} <= {"corrupt", "truncated"}


def test_row_02_bits_that_mean_nothing_are_caught_at_the_second_look(tmp_path: Path) -> None:
    """Wherever the bit is, it is caught at first sight, or no voxel has changed and the second look catches it."""
    root = write_cohort(tmp_path / "c", ["a"])
    path = root / "a/a_t1.nii.gz"
    cohort = read_cohort(root, sequences=["T1"])
    known = check_cohort(cohort).sha256
    packed, voxels = path.read_bytes(), read_volume(path).data
    # the whole gzip header, and places all over a stream in which many zeros can be packed in several ways
    for place in [*range(80), *range(1000, 8 * len(packed), 487)]:
        path.write_bytes(flipped(packed, place))
        found = codes(check_cohort(cohort, known=known))
        assert found["a"], place
        if found["a"] == ["changed"]:
            np.testing.assert_array_equal(read_volume(path).data, voxels)


def test_row_03_a_file_that_was_seen_before(tmp_path: Path) -> None:
    """A flipped bit in a plain .nii is quarantined at the second look: the sha256 that was kept differs."""
    root = write_cohort(tmp_path / "c", ["a", "b"])
    plain = root / "a/a_t1.nii"
    plain.write_bytes(unpacked(root / "a/a_t1.nii.gz"))
    (root / "a/a_t1.nii.gz").unlink()
    first = check_cohort(read_cohort(root))
    assert first.findings == ()
    content = bytearray(plain.read_bytes())
    content[352 + 2 * 4000] ^= 4
    plain.write_bytes(content)
    assert check_cohort(read_cohort(root)).findings == ()  # at first sight nothing can be known
    second = check_cohort(read_cohort(root), known=first.sha256)
    assert codes(second) == {"a": ["changed"]}
    assert second.findings[0].file == plain
    assert "restore it" in second.findings[0].fix


def test_row_04_no_image_at_all(tmp_path: Path) -> None:
    """A file of 0 bytes, and a web page saved as .nii.gz, are quarantined as what they are."""
    path = tmp_path / "a.nii.gz"
    assert refusal(path, b"").code == "empty_file"
    assert "holds 0 bytes" in refusal(path, b"").what
    said = refusal(path, b"<!DOCTYPE html><html><body>please log in</body></html>" * 20)
    assert said.code == "not_nifti"
    assert "web page" in said.what
    assert refusal(path, gzip.compress(b"x" * 1000)).code == "not_nifti"
    (tmp_path / "a.png").write_bytes(b"<html>")
    with pytest.raises(VolumeError, match="no readable PNG"):
        read_plane(ImageRef(tmp_path / "a.png"))


@pytest.mark.parametrize("does", ["open", "stat"])
@pytest.mark.parametrize(("number", "said"), [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error")])
def test_a_file_that_cannot_be_read_is_one_case(tmp_path: Path, number: int, said: str, does: str) -> None:
    root = write_cohort(tmp_path / "c", ["a", "b"])
    cohort = read_cohort(root)
    with failing(root / "a/a_t1.nii.gz", number, does):
        report = check_cohort(cohort)
    assert codes(report) == {"a": ["unreadable"]}
    assert said in report.findings[0].what
    assert "allow it to be read" in report.findings[0].fix
    assert check_cohort(cohort).findings == ()
    picture = tmp_path / "a.png"
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(picture)
    with failing(picture, number, does), pytest.raises(VolumeError, match=said) as caught:
        read_plane(ImageRef(picture))
    assert caught.value.code == "unreadable"


def test_row_05_gzip_bombs(tmp_path: Path, good: Path) -> None:
    """A gzip bomb is quarantined from its header's size, or soon after what its header announced, in little memory."""
    plain = unpacked(good)
    announced = gzip.compress(put(plain, DIMENSIONS, "8h", 3, 1290, 1290, 1290, 1, 1, 1, 1) + bytes(2**25), 1)
    silent = gzip.compress(plain + bytes(2**26), 1)
    tracemalloc.start()
    try:
        said = refusal(tmp_path / "a.nii.gz", announced)
        assert (said.code, "over the cap" in said.what) == ("too_large", True)
        assert refusal(tmp_path / "b.nii.gz", silent).code == "oversized"
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_row_05_the_cap_can_be_set(tmp_path: Path) -> None:
    """The cap is a setting, for volumes that are larger than it by right."""

    root = write_cohort(tmp_path / "c", ["a"])
    report = check_cohort(read_cohort(root, SourceOptions(max_gib=1e-5)))
    assert codes(report) == {"a": ["too_large", "too_large", "too_large"][: len(codes(report)["a"])]}
    assert "max_gib" in report.findings[0].fix
    with pytest.raises(ValueError, match="max_gib is 0"):
        SourceOptions(max_gib=0.0)


def test_row_06_thirty_thousand_cubed(tmp_path: Path, good: Path) -> None:
    """A header that says 30000^3 is quarantined and nothing of that size is allocated."""
    absurd = put(unpacked(good), DIMENSIONS, "8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    tracemalloc.start()
    try:
        for name, content in (("a.nii", absurd), ("a.nii.gz", gzip.compress(absurd))):
            said = refusal(tmp_path / name, content)
            assert said.code == "too_large"
            assert "(30000, 30000, 30000)" in said.what
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("at", "kind", "values", "code"),
    [
        (DIMENSIONS, "8h", (3, 24, -28, 12, 1, 1, 1, 1), "bad_dimensions"),
        (DIMENSIONS, "8h", (0, 24, 28, 12, 1, 1, 1, 1), "bad_dimensions"),
        (DIMENSIONS, "8h", (-3, 24, 28, 12, 1, 1, 1, 1), "bad_dimensions"),
        (DATATYPE, "2h", (7, 16), "unknown_datatype"),
        (DATATYPE, "2h", (4, 32), "unknown_datatype"),
        (OFFSET, "f", (-1.0,), "bad_offset"),
        (OFFSET, "f", (float("nan"),), "bad_offset"),
        (OFFSET, "f", (1e30,), "bad_offset"),
    ],
)
def test_row_07_negative_dimensions(
    *, tmp_path: Path, good: Path, at: int, kind: str, values: tuple[float, ...], code: str
) -> None:
    """Negative dimensions, an unknown datatype or offset are quarantined, all by one kind of error."""
    changed = put(unpacked(good), at, kind, *values)
    assert refusal(tmp_path / "a.nii", changed).code == code
    assert refusal(tmp_path / "a.nii.gz", gzip.compress(changed)).code == code


def test_row_08_no_slices(tmp_path: Path, good: Path) -> None:
    """A volume without slices is quarantined (nibabel loads it, empty)."""
    for sizes in ((3, 24, 28, 0, 1, 1, 1, 1), (2, 24, 28, 1, 1, 1, 1, 1)):
        said = refusal(tmp_path / "a.nii", put(unpacked(good), DIMENSIONS, "8h", *sizes))
        assert (said.code, "holds no slices" in said.what) == ("no_slices", True)


@pytest.mark.parametrize("scale", [(float("nan"), 0.0), (1.0, float("inf")), (float("-inf"), 0.0)])
def test_row_09_scale(tmp_path: Path, good: Path, scale: tuple[float, float]) -> None:
    """A NaN or infinite scale is quarantined, never ignored."""
    assert refusal(tmp_path / "a.nii", put(unpacked(good), SCALE, "2f", *scale)).code == "bad_scale"


@pytest.mark.parametrize(
    "rows",
    [
        (float("nan"), *(0.0,) * 11),
        (0.0,) * 12,
        (1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        (1e9, 0.0, 0.0, 0.0, 0.0, 1e9, 0.0, 0.0, 0.0, 0.0, 1e9, 0.0),
    ],
)
def test_row_10_affine(tmp_path: Path, good: Path, rows: tuple[float, ...]) -> None:
    """A NaN, singular or absurd affine is quarantined."""
    assert refusal(tmp_path / "a.nii", put(unpacked(good), SFORM, "12f", *rows)).code == "bad_affine"


def nonfinite(path: Path) -> Path:
    data = head()[0].astype(np.float32)
    data[12, 14, 6], data[0, 0, 0] = np.nan, np.inf
    return write_nifti(path, data)


def test_row_11_nonfinite_voxels(tmp_path: Path) -> None:
    """NaN or infinite voxels are quarantined with their number."""
    root = write_cohort(tmp_path / "c")
    nonfinite(root / "a/a_t1.nii.gz")
    report = check_cohort(read_cohort(root))
    assert codes(report) == {"a": ["nonfinite_voxels"]}
    assert f"2 of {24 * 28 * 12} voxels are NaN or infinite" in report.findings[0].what


def test_row_11_nonfinite_zero_counts_and_tells(tmp_path: Path) -> None:
    """With nonfinite zero they become 0, are counted in a note, and the case is kept; masks are never mended so."""
    from seglens.cohorts.slices import Preprocessing, SliceSampling, prepare_slices

    root = write_cohort(tmp_path / "c", ["a", "b", "c", "d"])
    nonfinite(root / "a/a_t1.nii.gz")
    write_nifti(root / "b/b_seg.nii.gz", np.where(head()[1] == 2, np.nan, 0).astype(np.float32))
    cohort = read_cohort(root, SourceOptions(nonfinite="zero"), sequences=["T1"])
    report = check_cohort(cohort)
    assert codes(report) == {"b": ["nonfinite_voxels"]}
    assert codes(report, "note") == {"a": ["nonfinite_zeroed"]}
    assert f"2 of {24 * 28 * 12} voxels" in report.findings[0].what
    assert "nonfinite_zeroed, kept" in report.text()
    settings = Preprocessing(("T1",), size=32), SliceSampling(minimum_foreground_share=0.0)
    slices = prepare_slices(cohort, *settings, quarantined=report.quarantined)
    assert "a" in set(slices.index["case"])
    assert bool(slices.images().isfinite().all())


def test_row_12_constant_image(tmp_path: Path) -> None:
    """A constant image is quarantined, and a brain that is constant is never divided by zero."""
    from seglens.cohorts.normalising import Intensities

    root = write_cohort(tmp_path / "c")
    write_nifti(root / "a/a_t1.nii.gz", np.full((24, 28, 12), 7, np.int16))
    report = check_cohort(read_cohort(root))
    assert codes(report) == {"a": ["constant"]}
    assert "every voxel is 7" in report.findings[0].what
    flat, brain = np.full((1, 4, 4), 7, np.float32), np.ones((1, 4, 4), bool)
    assert not Intensities.of([flat], [brain], (0.5, 99.5)).normalise(flat, brain).any()


def complex_voxels(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(head()[0].astype(np.complex64), np.eye(4)), path)


def colours(path: Path) -> None:
    pixels = np.zeros((24, 28, 12), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), path)


@pytest.mark.parametrize("write", [complex_voxels, colours])
def test_row_22_complex_or_rgb(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Complex or RGB voxels are quarantined; no imaginary part or colour is dropped without a word."""
    root = write_cohort(tmp_path / "c")
    write(root / "b/b_t1ce.nii.gz")
    assert codes(check_cohort(read_cohort(root))) == {"b": ["complex_or_rgb"]}


def test_row_22_coloured_picture(tmp_path: Path) -> None:
    """A 2-D image with different channels is quarantined until one of them is named."""
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match="has 3 different channels"):
        read_plane(ImageRef(tmp_path / "a.png"))
    np.testing.assert_array_equal(read_plane(ImageRef(tmp_path / "a.png", channel=2))[0], pixels[..., 2])
