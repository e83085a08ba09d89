import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seglens.reports.palette import CLASSES, class_colours, heat, luminance, rgb
from seglens.reports.pictures import (
    best_sequence,
    crop_of,
    data_uri,
    grey,
    heat_picture,
    mask_picture,
    outline,
    with_heat,
    with_mask,
)


def pixels(uri: str) -> np.ndarray:
    head, body = uri.split(",", 1)
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(body))).convert("RGB")).astype(int)


def scene(size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:size, :size]
    brain = (rows - 18) ** 2 + (columns - 22) ** 2 < 14**2
    image = (np.where(brain, rows / size, 0.0)).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    mask[10:18, 20:28] = 2
    return image, brain, mask


def test_the_crop_is_a_square_that_holds_the_brain() -> None:
    _, brain, _ = scene()
    top, left, side = crop_of(brain)
    assert brain[top : top + side, left : left + side].sum() == brain.sum()
    assert side < 40
    assert crop_of(np.zeros((40, 40), bool)) == (0, 0, 40)
    assert crop_of(np.ones((40, 40), bool)) == (0, 0, 40)


def test_outline_is_the_region_without_its_inside() -> None:
    region = np.zeros((9, 9), bool)
    region[2:7, 3:8] = True
    slow = np.zeros_like(region)
    for r, c in zip(*np.nonzero(region), strict=True):
        neighbours = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        slow[r, c] = any(not (0 <= a < 9 and 0 <= b < 9) or not region[a, b] for a, b in neighbours)
    assert np.array_equal(outline(region), slow)
    assert outline(np.ones((4, 4), bool)).sum() == 12


def test_grey_is_black_outside_and_rises_with_the_image() -> None:
    image, brain, _ = scene()
    scan = grey(image, brain)
    assert scan[~brain].max() == 0
    assert np.array_equal(scan[..., 0], scan[..., 2])
    column = scan[6:30, 22, 0].astype(int)
    assert (np.diff(column) >= 0).all()
    assert grey(image, np.zeros_like(brain)).max() == 0


def test_only_the_region_is_tinted_in_its_colour() -> None:
    _, _, mask = scene()
    scan = np.full((40, 40, 3), 100, np.uint8)
    painted = with_mask(scan, mask, {2: "#ff0000"})
    assert np.array_equal(painted[mask == 0], scan[mask == 0])
    inside = painted[12, 22].astype(int)
    assert inside[0] > 100 > inside[1]
    assert painted[10, 20, 0] > painted[12, 22, 0], "the outline is stronger"


def test_heat_is_painted_where_the_latent_fires_and_the_region_in_white() -> None:
    scan = np.full((20, 20, 3), 50, np.uint8)
    heat_map = np.zeros((20, 20), np.float32)
    heat_map[5, 5] = 1.0
    region = np.zeros((20, 20), bool)
    region[10:14, 10:14] = True
    painted = with_heat(scan, heat_map, region)
    assert painted[5, 5].sum() > 3 * 50
    assert tuple(painted[0, 0]) == (50, 50, 50)
    assert tuple(painted[10, 10]) == (255, 255, 255)
    assert tuple(painted[11, 11]) == (50, 50, 50)


def test_pictures_have_the_side_that_was_asked_for_and_show_the_mask() -> None:
    image, brain, mask = scene()
    bare, marked = (
        pixels(mask_picture(image, brain, None, {}, 96)),
        pixels(mask_picture(image, brain, mask, {2: CLASSES[0]}, 96)),
    )
    assert bare.shape == marked.shape == (96, 96, 3)
    coloured = np.abs(marked[..., 0] - marked[..., 2]) > 40
    assert 0.02 < coloured.mean() < 0.2
    assert (np.abs(bare[..., 0] - bare[..., 2]) > 40).mean() == 0


def test_the_brightest_place_of_a_heat_picture_is_the_latents() -> None:
    image, brain, mask = scene()
    grid = np.zeros((5, 5), np.float32)
    grid[1, 3] = 2.0
    picture = pixels(heat_picture(image * 0, brain, grid, 2.0, region=mask == 2, side=80))
    cold = pixels(heat_picture(image * 0, brain, grid * 0, 0.0, side=80))
    top, left, side = crop_of(brain)
    row, column = ((1.5 * 8 - top) / side * 80, (3.5 * 8 - left) / side * 80)
    warm = np.where((picture == 255).all(-1), 0, (picture - cold)[..., 0])
    found = np.unravel_index(warm.argmax(), warm.shape)
    assert abs(found[0] - row) < 8
    assert abs(found[1] - column) < 8


def test_a_stored_image_is_small_and_the_same_each_time() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 1)).repeat(3, 2).astype(np.uint8)
    assert data_uri(noise) == data_uri(noise)
    assert len(data_uri(noise)) < 64 * 64 * 3


@pytest.mark.parametrize(
    ("name", "sequences", "expected"),
    [
        ("edema", ["T1", "T1c", "T2", "FLAIR"], 3),
        ("enhancing", ["T1", "T1c"], 1),
        ("edema", ["T1c"], 0),
        ("putamen", ["FLAIR", "T1"], 1),
        (None, ["T1", "FLAIR"], 1),
        (None, ["PD"], 0),
    ],
)
def test_the_sequence_is_the_one_on_which_the_class_is_seen(
    name: str | None, sequences: list[str], expected: int
) -> None:
    assert best_sequence(sequences, name) == expected


def test_colours_are_one_a_class_and_ink_is_readable() -> None:
    colours = class_colours({0: "background", 1: "a", 2: "b", 7: "c"})
    assert list(colours) == [1, 2, 7]
    assert len(set(colours.values())) == 3
    for share in np.linspace(-0.2, 1.2, 40):
        fill, ink = heat(float(share))
        light, dark = sorted((luminance(*rgb(fill)), luminance(*rgb(ink))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
