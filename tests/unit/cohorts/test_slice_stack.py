from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import TUMOUR_LABELS, ImageRef
from seglens.cohorts.slice_stack import map_mask, read_stack
from seglens.cohorts.volumes import VolumeError

UNTIL_2021 = {0: 0, 1: 1, 2: 2, 4: 3}
FROM_2023 = {0: 0, 1: 1, 2: 2, 3: 3}
MASK = Path("seg.nii.gz")


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
