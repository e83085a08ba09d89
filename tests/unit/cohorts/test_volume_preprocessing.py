from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.nnunet_folder import changed, dataset, plans

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.spline_resampling import resample
from seglens.cohorts.volume_preprocessing import prepare_volume
from seglens.foreign.plans import Normalisation, read_plan


@pytest.fixture
def plan(tmp_path):
    return plan_of(tmp_path, plans())


def plan_of(folder, described):
    import json

    (folder / "plans.json").write_text(json.dumps(described))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    return read_plan(folder, "3d_small")


def volume_of(values, spacing=(2.0, 1.0, 1.25)):
    case = Case("c", "c", "c", "toy", {}, None, {})
    return CaseVolume(case, values, spacing, np.eye(4), False, ImageRef(Path("a")), {}, np.eye(4))


def framed(shape=(9, 10, 11), low=0.0):
    """Two channels; a frame of zeros, a hole in the middle that is zero in both, a voxel that is zero in one."""
    values = np.zeros((2, *shape), np.float32)
    inner = (slice(1, -2), slice(2, -1), slice(1, -1))
    values[(slice(None), *inner)] = np.random.default_rng(0).uniform(
        low, 255, (2, *(n - m for n, m in zip(shape, (3, 3, 2), strict=True)))
    )
    values[:, 4, 5, 5] = 0
    values[0, 3, 4, 4] = 0
    return values


def test_crop_and_z_score_in_what_is_not_zero(plan):
    values = framed()
    prepared = prepare_volume(volume_of(values), plan)
    assert (prepared.start, prepared.crop, prepared.file_extent) == ((1, 2, 1), (6, 7, 9), (9, 10, 11))
    crop = values[:, 1:7, 2:9, 1:10]
    for channel, found in zip(crop, prepared.values, strict=True):  # the hole is inside, for holes are filled
        np.testing.assert_allclose(found, (channel - channel.mean()) / channel.std(), atol=1e-6)
    assert (values == framed()).all(), "the volume itself is not written to"


def test_what_lies_outside_of_the_mask_stays_zero(plan):
    values = framed()
    values[:, 1:4, 2:5, 1:5] = 0  # a corner of the box
    found = prepare_volume(volume_of(values), plan).values
    assert (found[:, :3, :3, :4] == 0).all()
    inside = np.ones(found.shape[1:], bool)
    inside[:3, :3, :4] = False
    own = values[0, 1:7, 2:9, 1:10]
    np.testing.assert_allclose(found[0][inside], (own[inside] - own[inside].mean()) / own[inside].std(), atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (Normalisation("none"), lambda own: own),
        (Normalisation("zscore"), lambda own: (own - own.mean()) / own.std()),
        (Normalisation("zero_to_one"), lambda own: (own - own.min()) / (own.max() - own.min())),
        (Normalisation("rgb"), lambda own: own / 255),
        (Normalisation("ct", False, 90.0, 40.0, 10.0, 200.0), lambda own: (np.clip(own, 10, 200) - 90) / 40),
    ],
)
def test_normalisations(plan, rule, wanted):
    values = framed()
    found = prepare_volume(volume_of(values), replace(plan, normalisation=(rule, rule))).values
    for channel, own in zip(values[:, 1:7, 2:9, 1:10].astype(np.float64), found, strict=True):
        np.testing.assert_allclose(own, wanted(channel), atol=1e-4, rtol=1e-5)


def test_a_colour_rule_refuses_what_is_no_colour(plan):
    rule = Normalisation("rgb")
    with pytest.raises(ValueError, match=r"case c: intensities from -5\d.* takes 0 to 255: give images as they were"):
        prepare_volume(volume_of(framed(low=-60)), replace(plan, normalisation=(rule, rule)))


def test_resampling_comes_after_normalising(plan):
    values, spacing = framed(), (1.0, 1.4, 1.25)
    prepared = prepare_volume(volume_of(values, spacing), plan)
    assert prepared.extent == (3, 10, 9)
    own = values[:, 1:7, 2:9, 1:10]
    for channel, found in zip(own, prepared.values, strict=True):
        normal = (channel - channel.mean()) / channel.std()
        wanted = resample(normal, (3, 10, 9), spacing, (2.0, 1.0, 1.25), plan.images)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_planes_keep_the_distance_of_their_slices(tmp_path):
    plan = plan_of(tmp_path, plans(n_axes=2))
    prepared = prepare_volume(volume_of(framed(), (7.0, 1.0, 1.0)), plan)
    assert prepared.spacing_mm == (7.0, 1.0, 1.25) and prepared.extent == (6, 7, 7)


def test_masks_and_places_find_back_to_the_file(tmp_path):
    described = changed(changed(plans(), "transpose_forward", [2, 0, 1]), "transpose_backward", [1, 2, 0])
    plan = plan_of(tmp_path, described)
    values = framed()
    prepared = prepare_volume(volume_of(values, (1.0, 1.25, 2.0)), plan)
    turned = values.transpose(0, 3, 1, 2)
    assert prepared.start == (1, 1, 2) and prepared.crop == (9, 6, 7)
    mask = (turned[1, 1:10, 1:7, 2:9] > 100).astype(np.uint8)
    np.testing.assert_array_equal(prepared.on_file_grid(mask), values[1] > 100)
    # a bright voxel of the file is where the network's grid says that it is
    assert prepared.extent == (9, 6, 7)
    marked = values.copy()
    marked[:, 5, 6, 7] = 9999
    (place,) = np.argwhere(prepare_volume(volume_of(marked, (1.0, 1.25, 2.0)), plan).values[0] > 5)
    np.testing.assert_allclose(prepared.crop_places(place[None].astype(float)), [[5, 6, 7]])
    half = replace(prepared, values=prepared.values[:, ::2])  # 5 of 9 slices: coarser
    np.testing.assert_allclose(half.crop_places(np.array([[0.0, 0, 0]])), [[1, 2, 0.9 - 0.5 + 1]])


def test_absurd_grids_and_other_channels_are_refused(plan):
    with pytest.raises(ValueError, match=r"case c: 1 channels; the model expects 2: T1, FLAIR"):
        prepare_volume(volume_of(framed()[:1]), plan)
    with pytest.raises(ValueError, match=r"makes 3000000 x .* correct the spacing in the file's header"):
        prepare_volume(volume_of(framed(), (1e6, 100.0, 100.0)), plan)
    with pytest.raises(ValueError, match="makes 0 x"):
        prepare_volume(volume_of(framed(), (0.01, 1.0, 1.0)), plan)
