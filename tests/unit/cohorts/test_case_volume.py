import nibabel
import numpy as np
import pytest
from PIL import Image

from seglens.cohorts.axial import from_axial, to_axial
from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.case_volume import read_case_volume
from seglens.cohorts.volumes import VolumeError

LABELS = {0: "background", 1: "a"}
TILTED = np.array([[0, -0.7, 0.1, 5], [0.02, 0, 2.1, 1], [1.3, 0, 0, -4], [0, 0, 0, 1.0]])


def case_of(*paths):
    refs = {f"s{number}": ImageRef(path) for number, path in enumerate(paths)}
    return Case("c", "c", "c", "toy", refs, None, {}), tuple(refs)


def write(path, voxels, affine):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize("affine", [np.diag([1.25, 1, 2, 1.0]), np.diag([-1.25, -1, 2, 1.0]), TILTED])
def test_voxels_keep_the_order_of_the_file(tmp_path, affine):
    voxels = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    paths = [write(tmp_path / f"{number}.nii.gz", one, affine) for number, one in enumerate(voxels)]
    volume = read_case_volume(*case_of(*paths), LABELS)
    np.testing.assert_array_equal(volume.values, voxels.transpose(0, 3, 2, 1))
    assert volume.values.flags.c_contiguous
    assert volume.spacing_mm == tuple(float(size) for size in nibabel.load(paths[0]).header.get_zooms()[::-1])
    mask = (voxels[0] > 0).astype(np.uint8)
    np.testing.assert_array_equal(volume.in_file_order(mask.transpose(2, 1, 0)), mask)
    stack = volume.axial(mask.transpose(2, 1, 0))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask, affine))
    np.testing.assert_array_equal(stack, to_axial(np.asarray(canonical.dataobj)))


def test_canonical_voxels_are_turned_and_turned_back(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    path = write(tmp_path / "a.nii.gz", voxels, TILTED)
    volume = read_case_volume(*case_of(path), LABELS, canonical=True)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.values[0].transpose(2, 1, 0), np.asarray(canonical.dataobj))
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm[::-1], canonical.header.get_zooms(), rtol=1e-6)
    mask = (volume.values[0] > 0).astype(np.uint8)
    np.testing.assert_array_equal(volume.in_file_order(mask), voxels > 0)
    np.testing.assert_array_equal(from_axial(volume.axial(mask)), mask.transpose(2, 1, 0))


def test_what_cannot_be_a_volume_is_refused(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match=r"a\.png: is a picture, the model takes volumes; give NIfTI"):
        read_case_volume(*case_of(tmp_path / "a.png"), LABELS)
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    paths = [write(tmp_path / f"{n}.nii.gz", voxels[:n], np.eye(4)) for n in (4, 3)]
    with pytest.raises(VolumeError, match=r"3\.nii\.gz: its grid .* is not .* of 4\.nii\.gz"):
        read_case_volume(*case_of(*paths), LABELS)
