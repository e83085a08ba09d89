import numpy as np

from seglens.cohorts.axial import axial_affine, canonical_affine, from_axial, to_axial

AFFINE = np.array([[1.1, 0.1, 0, -40], [0.05, 0.9, 0.2, 7], [0, 0.1, 3.0, 12], [0, 0, 0, 1]])


def test_a_voxel_keeps_its_place_in_mm() -> None:
    volume = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    slices = to_axial(volume)
    affine = axial_affine(AFFINE, slices.shape)
    for place in np.ndindex(*volume.shape):
        (found,) = np.argwhere(slices == volume[place])
        np.testing.assert_allclose(affine @ [*found, 1], AFFINE @ [*place, 1])


def test_front_and_right_come_first() -> None:
    volume = np.zeros((3, 4, 5), np.uint8)
    volume[2, 3, 0] = 1  # the patient's right, anterior, inferior
    assert to_axial(volume)[0, 0, 0] == 1


def test_back_and_forth() -> None:
    volume = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(from_axial(to_axial(volume)), volume)
    np.testing.assert_allclose(canonical_affine(axial_affine(AFFINE, (5, 4, 3)), (5, 4, 3)), AFFINE, atol=1e-12)
