import gzip
import pickle
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from seglens.cohorts import volumes
from seglens.cohorts.axial import to_axial
from seglens.cohorts.volumes import VolumeError, read_volume

SHAPE = (5, 6, 4)


@pytest.fixture
def good(tmp_path: Path, write_nifti) -> Path:
    """int16, gzip."""
    return write_nifti(tmp_path / "good.nii.gz", np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16))


def plain(path: Path) -> bytearray:
    return bytearray(gzip.decompress(path.read_bytes()))


def test_an_error_comes_whole_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(VolumeError(Path("a.nii"), "truncated", "breaks off", "get it again")))
    assert str(error) == "a.nii: breaks off; get it again"
    assert (error.path, error.code, error.what, error.fix) == (
        Path("a.nii"),
        "truncated",
        "breaks off",
        "get it again",
    )


def code_of(path: Path, content: bytes, **options: int) -> str:
    path.write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_volume(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.fix
    return caught.value.code


def put(content: bytearray, at: int, kind: str, *values: float) -> bytearray:
    changed = bytearray(content)
    struct.pack_into("<" + kind, changed, at, *values)
    return changed


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "int32", "float32", "float64", "int8", "uint16", "uint32", "int64"]
)
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_equals_nibabel_on_healthy_files(tmp_path: Path, dtype: str, axes: str, ending: str) -> None:
    data = np.random.default_rng(1).integers(0, 100, SHAPE).astype(dtype)
    to_axes = nibabel.orientations.axcodes2ornt(axes)
    base = np.diag([0.9, 1.1, 2.0, 1.0])
    base[:3, 3] = (-10, 4, 7)
    affine = base @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), to_axes), SHAPE
    )
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(data, affine, dtype=dtype), path)
    volume = read_volume(path)
    expected = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.data, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing_mm, expected.header.get_zooms(), rtol=1e-5)
    assert volume.data.dtype == np.float32
    assert "".join(nibabel.aff2axcodes(volume.affine)) == "RAS"


def test_big_endian_and_scaled_files(tmp_path: Path) -> None:
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    path = tmp_path / "scaled.nii"
    path.write_bytes(image.as_byteswapped().to_bytes() if hasattr(image, "as_byteswapped") else image.to_bytes())
    np.testing.assert_allclose(
        read_volume(path).data, nibabel.load(path).get_fdata(dtype=np.float32), rtol=1e-6, atol=1e-5
    )
    header = nibabel.Nifti1Header(endianness=">")
    swapped = nibabel.Nifti1Image(data.astype(">i2"), np.eye(4), header)
    path.write_bytes(swapped.to_bytes())
    assert path.read_bytes()[:4] == b"\0\0\x01\x5c"
    np.testing.assert_array_equal(read_volume(path).data, data)


def test_axial_slices_are_radiological(tmp_path: Path, write_nifti) -> None:
    # a voxel at the patient's right, front, top; in a RAS array that is the largest index on every axis
    data = np.zeros(SHAPE, np.float32)
    data[-1, -1, -1] = 1
    ras = to_axial(read_volume(write_nifti(tmp_path / "r.nii", data, np.eye(4))).data)
    assert ras.shape == (4, 6, 5)
    assert ras[-1, 0, 0] == 1  # top slice, front row, right of the patient at the left of the picture
    lps = to_axial(read_volume(write_nifti(tmp_path / "l.nii", data[::-1, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0]))).data)
    np.testing.assert_array_equal(ras, lps)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, good: Path, share: float) -> None:
    packed, content = good.read_bytes(), bytes(plain(good))
    assert code_of(tmp_path / "t.nii.gz", packed[: int(len(packed) * share)]) == "truncated"
    assert code_of(tmp_path / "t.nii", content[: int(len(content) * share)]) == "truncated"


def test_no_flipped_bit_changes_a_number(tmp_path: Path, good: Path) -> None:
    packed = good.read_bytes()
    expected = read_volume(good).data
    path = tmp_path / "f.nii.gz"
    silent = []
    positions = range(0, len(packed), max(1, len(packed) // 150))
    for position in positions:
        flipped = bytearray(packed)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            np.testing.assert_array_equal(read_volume(path).data, expected)
        except VolumeError:
            continue
        silent.append(position)  # the stream has bits that mean nothing: its time, its name, padding
    assert len(silent) < 0.1 * len(positions)


def test_what_is_no_nifti(tmp_path: Path, good: Path) -> None:
    assert code_of(tmp_path / "a.nii.gz", b"") == "empty_file"
    assert code_of(tmp_path / "a.nii.gz", b"<!DOCTYPE html><html>not found</html>" * 20) == "not_nifti"
    assert code_of(tmp_path / "a.nii.gz", gzip.compress(b"x" * 1000)) == "not_nifti"
    assert code_of(tmp_path / "a.nii", bytes(put(plain(good), 0, "i", 540))) == "not_nifti"
    assert code_of(tmp_path / "a.nii.gz", good.read_bytes() + b"rubbish") == "corrupt"
    with pytest.raises(VolumeError, match="cannot be opened"):
        read_volume(tmp_path / "none.nii.gz")
    with pytest.raises(VolumeError, match="is not a file"):
        read_volume(tmp_path)


def test_bombs_are_refused_from_their_header(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = plain(good)
    huge = gzip.compress(bytes(put(content, 40, "8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)))
    asked: list[int] = []
    unpack = volumes._unpack
    monkeypatch.setattr(volumes, "_unpack", lambda *a, **k: asked.append(a[2]) or unpack(*a, **k))
    assert code_of(tmp_path / "a.nii.gz", huge) == "too_large"
    assert asked == [volumes.FIRST_BYTES]
    # announces little, unfolds to much: given up soon after what was announced
    assert code_of(tmp_path / "a.nii.gz", gzip.compress(bytes(content) + bytes(2**24))) == "oversized"
    # announces more than so few packed bytes can hold: nothing of that size is allocated
    lie = gzip.compress(bytes(put(content, 40, "8h", 3, 1000, 1000, 900, 1, 1, 1, 1)))
    assert code_of(tmp_path / "a.nii.gz", lie) == "truncated"
    assert code_of(tmp_path / "a.nii.gz", good.read_bytes(), max_bytes=100) == "too_large"


@pytest.mark.parametrize(
    ("at", "kind", "values", "code"),
    [
        (40, "8h", (3, 5, -6, 4, 1, 1, 1, 1), "bad_dimensions"),
        (40, "8h", (0, 5, 6, 4, 1, 1, 1, 1), "bad_dimensions"),
        (40, "8h", (9, 5, 6, 4, 1, 1, 1, 1), "bad_dimensions"),
        (40, "8h", (3, 5, 6, 0, 1, 1, 1, 1), "no_slices"),
        (40, "8h", (2, 5, 6, 1, 1, 1, 1, 1), "no_slices"),
        (40, "8h", (4, 5, 6, 2, 2, 1, 1, 1), "four_dimensions"),
        (70, "2h", (32, 64), "complex_or_rgb"),
        (70, "2h", (128, 24), "complex_or_rgb"),
        (70, "2h", (7, 16), "unknown_datatype"),
        (70, "2h", (4, 32), "unknown_datatype"),
        (108, "f", (-1.0,), "bad_offset"),
        (108, "f", (float("nan"),), "bad_offset"),
        (108, "f", (352.5,), "bad_offset"),
        (112, "2f", (float("nan"), 0.0), "bad_scale"),
        (112, "2f", (1.0, float("inf")), "bad_scale"),
        (280, "4f", (float("nan"), 0.0, 0.0, 0.0), "bad_affine"),
        (280, "12f", (0.0,) * 12, "bad_affine"),
        (280, "12f", (1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0), "bad_affine"),
    ],
)
def test_absurd_headers(
    *, tmp_path: Path, good: Path, at: int, kind: str, values: tuple[float, ...], code: str
) -> None:
    changed = bytes(put(plain(good), at, kind, *values))
    assert code_of(tmp_path / "a.nii", changed) == code
    assert code_of(tmp_path / "a.nii.gz", gzip.compress(changed)) == code


def test_a_broken_quaternion_is_a_bad_affine(tmp_path: Path, good: Path) -> None:
    content = put(put(plain(good), 252, "2h", 1, 0), 256, "3f", 5.0, 5.0, 5.0)
    assert code_of(tmp_path / "a.nii", bytes(content)) == "bad_affine"


def test_bad_voxels(tmp_path: Path, write_nifti) -> None:
    data = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    with pytest.raises(VolumeError, match="2 of 120 voxels are NaN or infinite") as caught:
        read_volume(write_nifti(tmp_path / "n.nii.gz", data))
    assert caught.value.code == "nonfinite_voxels"
    constant = write_nifti(tmp_path / "c.nii.gz", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(VolumeError, match="every voxel is 7"):
        read_volume(constant)
    assert read_volume(constant, constant=True).data.max() == 7


def test_a_trailing_dimension_of_one_and_several_gzip_members_are_fine(tmp_path: Path, good: Path) -> None:
    content = plain(good)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(put(content, 40, "8h", 4, 5, 6, 4, 1, 1, 1, 1))))
    np.testing.assert_array_equal(read_volume(path).data, read_volume(good).data)
    path.write_bytes(gzip.compress(bytes(content[:400])) + gzip.compress(bytes(content[400:])) + bytes(64))
    np.testing.assert_array_equal(read_volume(path).data, read_volume(good).data)
