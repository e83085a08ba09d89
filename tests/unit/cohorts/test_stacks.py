from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import TUMOUR_LABELS, Case, ImageRef
from seglens.cohorts.contents import read_case
from seglens.cohorts.stacks import map_mask, read_stack
from seglens.cohorts.volumes import VolumeError

UNTIL_2021 = {0: 0, 1: 1, 2: 2, 4: 3}
FROM_2023 = {0: 0, 1: 1, 2: 2, 3: 3}
MASK = Path("seg.nii.gz")


def case(image: Path, mask: Path | None, **others: Path) -> Case:
    images = {"T1": ImageRef(image)} | {name: ImageRef(path) for name, path in others.items()}
    return Case("a", "a", "a", "c", images, ImageRef(mask) if mask else None, UNTIL_2021)


def test_map_mask_against_a_loop() -> None:
    values = np.random.default_rng(0).choice([0, 1, 2, 4], (3, 4, 5)).astype(np.float32)
    mapped = map_mask(MASK, values, UNTIL_2021, TUMOUR_LABELS)
    assert mapped.dtype == np.uint8
    for place in np.ndindex(values.shape):
        assert mapped[place] == UNTIL_2021[int(values[place])]


@pytest.mark.parametrize(
    ("value", "table", "code"),
    [
        (3.0, UNTIL_2021, "enhancing_code"),
        (4.0, FROM_2023, "enhancing_code"),
        (5.0, FROM_2023, "unknown_labels"),
        (-1.0, UNTIL_2021, "unknown_labels"),
        (0.9997, UNTIL_2021, "fractional_labels"),
        (1.5, UNTIL_2021, "fractional_labels"),
        (255.0, {0: 0, 1: 1}, "unknown_labels"),
    ],
)
def test_values_outside_the_table_are_never_merged(value: float, table: dict[int, int], code: str) -> None:
    values = np.zeros((1, 2, 2), np.float32)
    values[0, 0, 0] = value
    with pytest.raises(VolumeError) as caught:
        map_mask(MASK, values, table, TUMOUR_LABELS)
    assert caught.value.code == code


def test_a_wrong_enhancing_code_beside_another_unknown_value_names_both() -> None:
    with pytest.raises(VolumeError, match=r"holds the value 4, .*also unknown: \[7\]"):
        map_mask(MASK, np.array([[[4.0, 7.0]]], np.float32), FROM_2023, TUMOUR_LABELS)


def test_a_picture_is_a_stack_of_one(tmp_path: Path, write_picture) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    stack = read_stack(ImageRef(write_picture(tmp_path / "a.PNG", pixels)))
    np.testing.assert_array_equal(stack.values, pixels[None])
    assert stack.affine is None
    assert stack.spacing_mm is None


def test_other_orientations_and_small_differences_share_a_grid(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    flipped = affine @ np.array([[-1, 0, 0, image.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    nearly = affine + 9e-4 * (np.arange(16).reshape(4, 4) == 3)
    one = case(
        write_nifti(tmp_path / "t1.nii.gz", image, affine),
        write_nifti(tmp_path / "seg.nii.gz", mask[::-1].astype(np.float32), flipped),
        T2=write_nifti(tmp_path / "t2.nii.gz", image, nearly),
    )
    stacks, labels = read_case(one, ["T1", "T2"], TUMOUR_LABELS)
    np.testing.assert_array_equal(stacks[0].values, image.transpose(2, 1, 0))
    np.testing.assert_array_equal(labels, np.where(mask == 4, 3, mask).transpose(2, 1, 0))
    assert stacks[0].spacing_mm == (2.0, 1.0)


def test_grids_that_differ_are_refused(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    t1 = write_nifti(tmp_path / "t1.nii.gz", image)
    shifted = np.diag([-1.0, -1.0, 1.0, 1.0])
    shifted[0, 3] = 0.01
    with pytest.raises(VolumeError, match=r"affine differs by up to 0\.01 from that of t1") as caught:
        read_case(case(t1, write_nifti(tmp_path / "a.nii.gz", mask, shifted)), ["T1"], TUMOUR_LABELS)
    assert caught.value.code == "other_affine"
    with pytest.raises(VolumeError, match=r"\(11, 28, 24\) is not \(12, 28, 24\)") as caught:
        read_case(case(t1, write_nifti(tmp_path / "b.nii.gz", mask[..., :-1])), ["T1"], TUMOUR_LABELS)
    assert caught.value.code == "other_shape"


def test_what_is_missing_is_said(tmp_path: Path, write_nifti, head) -> None:
    image, mask = head()
    t1, seg = write_nifti(tmp_path / "t1.nii.gz", image), write_nifti(tmp_path / "seg.nii.gz", mask)
    with pytest.raises(VolumeError, match="no mask"):
        read_case(case(t1, None), ["T1"], TUMOUR_LABELS)
    with pytest.raises(VolumeError, match="no FLAIR"):
        read_case(case(t1, seg), ["FLAIR"], TUMOUR_LABELS)
