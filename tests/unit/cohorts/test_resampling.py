from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import ImageRef
from seglens.cohorts.resampling import onto_grid
from seglens.cohorts.slice_stack import Stack, read_stack
from seglens.cohorts.volumes import VolumeError

OBLIQUE = np.array([[0.9, -0.3, 0.1, -5], [0.25, 0.95, -0.1, 4], [-0.1, 0.2, 1.9, 3], [0, 0, 0, 1]])


def ramp(path: Path, write_nifti, shape: tuple[int, int, int], affine: np.ndarray) -> Stack:
    """An image whose value at a voxel is a linear function of its place in mm."""
    grid = np.stack([*np.indices(shape, float), np.ones(shape)])
    x, y, z = np.tensordot(affine, grid, 1)[:3]
    return read_stack(ImageRef(write_nifti(path, (500 + 3 * x - 2 * y + z).astype(np.float32), affine)))


def test_linear_images_are_exact_on_any_grid(tmp_path: Path, write_nifti) -> None:
    source = ramp(tmp_path / "a.nii.gz", write_nifti, (40, 40, 30), OBLIQUE)
    inner = np.diag([-0.7, 0.8, 1.1, 1.0])
    inner[:3, 3] = (18, 20, 18)
    target = ramp(tmp_path / "b.nii.gz", write_nifti, (9, 7, 8), inner)
    moved, text = onto_grid(Path("a"), source, target, nearest=False)
    np.testing.assert_allclose(moved.values, target.values, atol=1e-3)
    assert text == ""
    assert moved.affine is target.affine
    assert moved.spacing_mm == target.spacing_mm


def test_the_own_grid_changes_nothing(tmp_path: Path, write_nifti) -> None:
    stack = ramp(tmp_path / "a.nii.gz", write_nifti, (6, 7, 5), OBLIQUE)
    np.testing.assert_allclose(onto_grid(Path("a"), stack, stack, nearest=False)[0].values, stack.values, rtol=1e-5)
    np.testing.assert_array_equal(onto_grid(Path("a"), stack, stack, nearest=True)[0].values, stack.values)


def test_what_does_not_overlap_is_refused(tmp_path: Path, write_nifti) -> None:
    far = OBLIQUE.copy()
    far[0, 3] = 900
    near = ramp(tmp_path / "a.nii.gz", write_nifti, (6, 7, 5), OBLIQUE)
    with pytest.raises(VolumeError, match="shows nothing"):
        onto_grid(Path("a"), ramp(tmp_path / "b.nii.gz", write_nifti, (6, 7, 5), far), near, nearest=False)
