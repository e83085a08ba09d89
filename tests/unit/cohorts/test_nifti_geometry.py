import io

import nibabel
import numpy as np
import pytest

from seglens.cohorts.nifti_geometry import affine_in_mm, geometry_remarks, unit_code


def first_bytes(affine: np.ndarray, unit: str) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_sform(affine, 1)
    header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_xyzt_units(unit, "sec")
    return bytes(header.binaryblock)


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001), ("unknown", 1.0)])
def test_affines_are_in_mm(unit: str, millimetres: float) -> None:
    affine = np.array([[-0.9, 0.1, 0, 5], [0.1, 0.8, 0.2, -3], [0, -0.1, 2.0, 7], [0, 0, 0, 1]])
    stored = np.vstack([affine[:3] / millimetres, affine[3]])
    first = first_bytes(stored, unit)
    read = affine_in_mm(first)
    assert read is not None
    np.testing.assert_allclose(read, affine, rtol=1e-5)
    assert [code for code, _, _ in geometry_remarks(first)] == ([] if millimetres == 1 else ["other_units"])
    assert unit_code(first) == {"meter": 1, "mm": 2, "micron": 3, "unknown": 0}[unit]


def test_sizes_that_are_absurd_in_mm() -> None:
    assert affine_in_mm(first_bytes(np.diag([1.0, 1, 1, 1]), "micron")) is None
    assert affine_in_mm(first_bytes(np.diag([2.0, 2, 2, 1]), "meter")) is None


@pytest.mark.parametrize("size", [np.inf, 3e38])
def test_a_qform_that_runs_nowhere_is_a_remark_beside_a_sound_sform(size: float) -> None:
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(first_bytes(np.diag([1.0, 1, 1, 1]), "mm")), check=False)
    header["qform_code"], header["pixdim"][1:4] = 1, size
    remarks = {code: what for code, what, _ in geometry_remarks(bytes(header.binaryblock))}
    if np.isinf(size):
        assert "its qform to nowhere; the sform was taken" in remarks["two_orientations"]
    else:
        assert set(remarks) == {"two_spacings"}
