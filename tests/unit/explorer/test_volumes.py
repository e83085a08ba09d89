import nibabel
import numpy as np
import pytest

from seglens.cohorts.axial import axial_affine, to_axial
from seglens.cohorts.volumes import read_volume
from seglens.explorer.opened import UnknownError
from seglens.explorer.volumes import as_nifti, image, mask

AFFINE = np.array([[0.0, -2.0, 0.0, 30.0], [1.5, 0.0, 0.0, -9.0], [0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]])
"""Of a volume whose first axis runs to the front and whose second runs to the left."""


def written(folder, values):
    nibabel.nifti1.Nifti1Image(values, AFFINE).to_filename(folder / "scan.nii")
    return folder / "scan.nii"


@pytest.mark.parametrize(
    ("largest", "kind"), [(255, np.uint8), (256, np.int16), (32767, np.int16), (32768, np.float32), (0.5, np.float32)]
)
def test_a_volume_comes_back_in_its_place_and_in_the_smallest_type(tmp_path, largest, kind):
    values = np.zeros((3, 4, 5), dtype=np.float32)
    values[1, 2, 3], values[2, 0, 4] = largest, 7
    path = written(tmp_path, values)
    read = read_volume(path)
    stack = to_axial(read.data)
    made = nibabel.nifti1.Nifti1Image.from_bytes(as_nifti(stack, axial_affine(read.affine, stack.shape)))
    expected = nibabel.funcs.as_closest_canonical(nibabel.nifti1.load(path))
    assert made.get_data_dtype() == kind
    np.testing.assert_array_equal(made.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(made.affine, expected.affine, atol=1e-5)
    assert nibabel.orientations.aff2axcodes(made.affine) == ("R", "A", "S")
    assert made.header.get_xyzt_units()[0] == "mm"


def test_negative_whole_numbers_are_not_taken_for_bytes():
    values = np.full((2, 2, 2), -3.0, dtype=np.float32)
    made = nibabel.nifti1.Nifti1Image.from_bytes(as_nifti(values, np.eye(4)))
    assert made.get_data_dtype() == np.int16
    assert (made.get_fdata() == -3).all()


def test_pictures_and_unknown_cases_have_no_volume(held, slices):
    case = slices.index["case"][0]
    with pytest.raises(UnknownError, match=rf"{case} is a 2-D picture file; discs has no volumes"):
        image("discs", case, "FLAIR", held)
    with pytest.raises(UnknownError, match=r"no slice of a case '\.\./\.\./etc' in discs"):
        mask("discs", "../../etc", held)
