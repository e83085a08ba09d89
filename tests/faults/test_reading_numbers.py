"""Headers and grids that would change a number without a word: units, sizes, precision, resampling."""

import gzip
import pickle
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.faults.scans import LPS, codes, head, put, write_cohort, write_nifti

from seglens.cohorts.checks import check_cohort
from seglens.cohorts.foreground import brain_foreground
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.pickled import convert_pickles
from seglens.cohorts.precision import to_float32
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError, read_volume, read_volumes
from seglens.foreign.arrays import ArrayError

UNITS, METRES, MICRON = 123, 1, 3


def in_units(path: Path, unit: int, millimetres: float) -> Path:
    """The same file with its lengths in another unit."""
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[:3] /= millimetres
    write_nifti(path, np.asarray(image.dataobj), affine)
    path.write_bytes(gzip.compress(put(gzip.decompress(path.read_bytes()), UNITS, "B", unit)))
    return path


@pytest.mark.parametrize(("unit", "millimetres"), [(METRES, 1000.0), (MICRON, 1e-3), (MICRON | 8, 1e-3)])
def test_row_74_lengths_in_metres_or_micron(tmp_path: Path, unit: int, millimetres: float) -> None:
    """Lengths in micron or metres are read as such, images and masks alike, and a note says so."""
    root = write_cohort(tmp_path, ["a"])
    before = read_volume(root / "a/a_t1.nii.gz")
    for name in ("t1", "t1ce"):  # the mask stays in mm
        in_units(root / f"a/a_{name}.nii.gz", unit, millimetres)
    after = read_volume(root / "a/a_t1.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    np.testing.assert_allclose(after.spacing_mm, before.spacing_mm, rtol=1e-5)
    report = check_cohort(read_cohort(root))
    assert codes(report) == {}
    assert codes(report, "note") == {"a": ["other_units", "other_units"]}


def test_row_74_a_mask_in_other_units_than_its_image(tmp_path: Path) -> None:
    """A mask whose header says micron where it means mm lies elsewhere: quarantined, not laid over the image."""
    root = write_cohort(tmp_path, ["a", "b"])
    path = root / "a/a_seg.nii.gz"
    path.write_bytes(gzip.compress(put(gzip.decompress(path.read_bytes()), UNITS, "B", METRES)))
    assert codes(check_cohort(read_cohort(root))) == {"a": ["bad_affine"]}
    in_units(root / "b/b_seg.nii.gz", MICRON, 1.0 / 4)
    assert codes(check_cohort(read_cohort(root)))["b"] == ["other_affine"]


def test_row_74_units_that_the_format_does_not_know(tmp_path: Path) -> None:
    """A code that names no unit is refused; no unit at all is mm, as everywhere."""
    for code in range(4, 8):
        with pytest.raises(VolumeError, match="in the unit") as caught:
            read_volume(in_units(write_nifti(tmp_path / "a.nii.gz", head()[0]), code, 1.0))
        assert caught.value.code == "unknown_units"
    assert read_volume(in_units(write_nifti(tmp_path / "a.nii.gz", head()[0]), 0, 1.0)).spacing_mm == (1, 1, 1)


def test_row_75_a_lesion_that_resampling_thins_out(tmp_path: Path) -> None:
    """A label that loses more than a tenth of its volume in resampling is quarantined, with the shares kept."""
    root = write_cohort(tmp_path, ["a", "b"])
    mask = head()[1]
    below = np.eye(4)
    below[2, 3] = 6.5  # half of the lesion lies below the image
    write_nifti(root / "a/a_seg.nii.gz", mask, below @ LPS)
    report = check_cohort(read_cohort(root, SourceOptions(resample=True)))
    (finding,) = [one for one in report.findings if one.case == "a"]
    assert (finding.code, finding.severity) == ("lost_in_resampling", "quarantine")
    assert "% of the value 2" in finding.what
    assert "over 10% of" in finding.what


def test_row_75_shares_are_told_where_little_is_lost(tmp_path: Path) -> None:
    """A note tells each label's share that resampling keeps, by volume, and how much an image leaves uncovered."""
    root = write_cohort(tmp_path, ["a"])
    image, mask = head()
    fine = np.kron(mask, np.ones((2, 2, 2), np.uint8))  # twice as many voxels along each axis, the same volume
    half = LPS @ np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = (0.25, 0.25, -0.25)
    shifted = np.eye(4)
    shifted[2, 3] = 3
    write_nifti(root / "a/a_seg.nii.gz", fine, half)
    write_nifti(root / "a/a_t1ce.nii.gz", image[:, :, 3:], LPS @ shifted)
    report = check_cohort(read_cohort(root, SourceOptions(resample=True)))
    assert codes(report) == {}
    sentences = [one.what for one in report.findings]
    assert any("it keeps 100.0% of the value 2, 100.0% of the value 4, by volume" in what for what in sentences)
    assert any("25.00% of that grid lie outside of it and are 0" in what for what in sentences)


NOISE = np.random.default_rng(0).normal(0, 1, (4, 5, 3))
BEYOND = {
    "integers at 2^30": (np.arange(60).reshape(4, 5, 3) + 2**30).astype(np.int32),
    "integers at 2^30 beside 0": np.where(NOISE > 0, np.arange(60).reshape(4, 5, 3) + 2**30, 0).astype(np.int32),
    "one integer that moves": np.where(NOISE > 1, 2**24 + 1, 0).astype(np.uint32),
    "noise on 1e9": 1e9 + NOISE,
    "noise on 1e9 beside 0": np.where(NOISE > 0, 1e9 + NOISE, 0),
    "noise on 1e9 beside 1e12": np.where(NOISE > 2, 1e12, 1e9 + NOISE),
    "noise on 1e9 beside noise": np.where(NOISE > 0, 1e9 + NOISE, NOISE),
    "beyond float32": np.where(NOISE > 1, 1e300, 1.0),
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("zero_nonfinite", [False, True])
def test_row_76_numbers_that_float32_does_not_hold(tmp_path: Path, name: str, zero_nonfinite: bool) -> None:
    """Numbers that float32 would merge, move (integers at all) or not hold are quarantined, whatever is beside them."""
    with pytest.raises(VolumeError) as caught:
        read_volumes(write_nifti(tmp_path / "a.nii.gz", BEYOND[name]), (None,), zero_nonfinite=zero_nonfinite)
    assert caught.value.code == "precision_lost"


def test_row_76_labels_are_exact(tmp_path: Path) -> None:
    """In a mask no label may move at all: 16777217 would become 16777216."""
    mask = head()[1].astype(np.int32)
    mask[mask == 4] = 2**24 + 1
    with pytest.raises(VolumeError, match="float32 moves its values by up to 1") as caught:
        read_volume(write_nifti(tmp_path / "a.nii.gz", mask), constant=True)
    assert caught.value.code == "precision_lost"
    assert read_volume(write_nifti(tmp_path / "b.nii.gz", mask - (mask > 9)), constant=True).data.max() == 2**24


def test_row_76_what_is_as_before_passes() -> None:
    """Scanners' integers, Hounsfield units and rounding in the last digits are no loss."""
    chance = np.random.default_rng(0)
    large = chance.normal(0, 1, 10**6)
    large[0] = 1e7
    for numbers in (chance.integers(-1024, 3000, 99).astype(np.int16), large, chance.random(10**5) + 50):
        read = to_float32(numbers)
        assert read.fault() is None
        np.testing.assert_array_equal(read.data, numbers.astype(np.float32))
    read = to_float32(np.array([1.0, np.nan, np.inf, 1e300, -3.0]))
    assert (read.n_nonfinite, read.n_overflowed, read.data.tolist()) == (2, 1, [1, 0, 0, 0, -3])
    assert read.fault() is not None


@pytest.mark.parametrize("level", [1e9, 1e300, np.inf])
def test_row_76_pickled_arrays(tmp_path: Path, level: float) -> None:
    """convert-pkl refuses what float32 would make constant or infinite, and writes nothing."""
    image = np.random.default_rng(0).normal(0, 1, (3, 4, 5))
    image[0, 0, 0] = level
    image += 1e9 * (level == 1e9)  # but for the first voxel, that is
    (tmp_path / "a.pkl").write_bytes(pickle.dumps((image, np.zeros((3, 4, 5), np.int16))))
    with pytest.raises(ArrayError, match=r"float32|NaN or infinite"):
        convert_pickles(tmp_path / "a.pkl", tmp_path / "out", orientation="RAS")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_row_77_fewer_voxels_than_the_file_holds(tmp_path: Path, ending: str, axis: int) -> None:
    """A header that says one row, column or slice less than the file holds is refused, an empty last slice too."""
    for data in (head(shape=(6, 7, 6))[0], np.zeros((6, 7, 6), np.int16)):
        content = bytearray(nibabel.Nifti1Image(data, LPS).to_bytes())
        struct.pack_into("<h", content, 42 + 2 * axis, data.shape[axis] - 1)
        path = tmp_path / f"a{ending}"
        path.write_bytes(gzip.compress(bytes(content)) if ending == ".nii.gz" else bytes(content))
        with pytest.raises(VolumeError, match=r"follow the .* voxels that its header announces") as caught:
            read_volume(path, constant=True)
        assert caught.value.code == "oversized"


def test_row_77_more_after_the_end(tmp_path: Path) -> None:
    """A second gzip member, or bytes after the voxels, are refused; a few zeros of padding are not."""
    content = nibabel.Nifti1Image(head()[0], LPS).to_bytes()
    path = tmp_path / "a.nii.gz"
    for more in (gzip.compress(b"\1" * 1000), gzip.compress(bytes(1000)), gzip.compress(b"\1")):
        path.write_bytes(gzip.compress(content) + more)
        with pytest.raises(VolumeError, match="bytes follow the"):
            read_volume(path)
    path.write_bytes(gzip.compress(content) + gzip.compress(bytes(16)))
    half = len(content) // 2
    read_volume(path)
    path.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))  # as block-wise writers do
    read_volume(path)


def test_row_78_how_voxels_lie_is_said_twice_or_not_at_all(tmp_path: Path) -> None:
    """A file without orientation, or whose sform and qform disagree on sides or sizes, is read with a note."""
    root = write_cohort(tmp_path, ["a", "b", "c", "d"], n_sequences=1)
    changes = {"a": {"sform": 0, "qform": 0}, "b": {"mirror": 1}, "c": {"zoom": 2.0}, "d": {}}
    for case, change in changes.items():
        image = nibabel.load(root / f"{case}/{case}_t1.nii.gz")
        data, header = np.asarray(image.dataobj), image.header.copy()
        header.set_sform(LPS, change.get("sform", 1))
        mirrored = np.diag([1.0, -1.0, 1.0, 1.0]) if "mirror" in change else LPS
        header.set_qform(mirrored, change.get("qform", 1))
        header["pixdim"][1] = change.get("zoom", 1.0)
        nibabel.save(nibabel.Nifti1Image(data, None, header), root / f"{case}/{case}_t1.nii.gz")
    report = check_cohort(read_cohort(root))
    assert codes(report, "note") == {"a": ["no_orientation"], "b": ["two_orientations"], "c": ["two_spacings"]}
    assert "its axes run to LPS, its qform to RPS" in next(one.what for one in report.findings if one.case == "b")


def test_row_57_a_label_in_the_background_of_a_stripped_head(tmp_path: Path) -> None:
    """A label that lies wholly where a stripped head is zero is a finding: the network is shown nothing there."""
    root = write_cohort(tmp_path, ["a", "b"])
    mask = np.zeros_like(head()[1])
    mask[:3, :3, 2:9] = 2
    write_nifti(root / "a/a_seg.nii.gz", mask)
    report = check_cohort(read_cohort(root))
    assert report.foreground == "brain"
    assert codes(report, "note") == {"a": ["label_blanked"]}
    assert "63 of 63 pixels of edema" in report.findings[0].what


def test_row_57_what_is_added_to_all_voxels_changes_nothing() -> None:
    """The body in Hounsfield units is that of the same numbers from 0 on: an offset moves no threshold."""
    chance = np.random.default_rng(0)
    rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
    body = rows**2 + columns**2 < 0.7
    core = rows**2 + columns**2 < 0.02  # dense, the rest is lung
    plane = np.where(body, np.where(core, 40, -700), -1000) + chance.normal(0, 10, body.shape)
    units = plane[None].astype(np.float32)
    one, two = (brain_foreground([[units + np.float32(offset)]])[0] for offset in (0, 1024))
    np.testing.assert_array_equal(one, two)
    assert one[0][body].mean() > 0.95
