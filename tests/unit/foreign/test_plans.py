import json

import pytest
from tests.nnunet_folder import REGIONS, changed, dataset, plans

from seglens.foreign.json_fields import FieldError
from seglens.foreign.plans import Interpolation, Normalisation, configurations, read_plan


def read(folder, described, described_set=None, configuration="3d_small"):
    (folder / "plans.json").write_text(json.dumps(described))
    (folder / "dataset.json").write_text(json.dumps(described_set or dataset()))
    return read_plan(folder, configuration)


def test_what_a_folder_says(tmp_path):
    plan = read(tmp_path, plans())
    assert (plan.dataset, plan.configuration, plan.channels) == ("Dataset900_Toy", "3d_small", ("T1", "FLAIR"))
    assert (plan.patch, plan.spacing) == ((8, 12, 12), (2.0, 1.0, 1.25))
    assert (plan.heads, plan.class_order) == (("background", "edema", "core"), None)
    assert plan.normalisation == (Normalisation("zscore", True),) * 2
    assert (plan.images, plan.logits) == (Interpolation(3), Interpolation(1))
    assert not plan.canonical
    assert configurations(tmp_path) == ["3d_fullres", "3d_small"]


def test_regions_are_heads_in_the_order_of_the_file(tmp_path):
    plan = read(tmp_path, plans(), dataset(REGIONS))
    assert (plan.heads, plan.class_order) == (("whole", "core"), (1, 2))
    one = read(tmp_path, plans(), dataset({"background": 0, "b": 2, "a": [1]}) | {"regions_class_order": []})
    assert one.heads == ("background", "a", "b")  # lists of one value are labels
    ignored = read(tmp_path, plans(), dataset({"background": 0, "a": 1, "ignore": 2}))
    assert ignored.heads == ("background", "a")


def test_values_are_inherited_from_the_nearest(tmp_path):
    described = plans()
    described["configurations"]["3d_small"]["patch_size"] = [4, 8, 8]
    described["configurations"]["middle"] = {"inherits_from": "3d_fullres", "spacing": [3.0, 2.0, 1.0]}
    described["configurations"]["3d_small"]["inherits_from"] = "middle"
    plan = read(tmp_path, described)
    assert (plan.patch, plan.spacing) == ((4, 8, 8), (3.0, 2.0, 1.0))


@pytest.mark.parametrize("key", ["per_channel", "by_modality"])
def test_ct_takes_the_training_set_s_intensities(tmp_path, key):
    described = plans(scheme="CTNormalization")
    described[f"foreground_intensity_properties_{key}"] = described.pop("foreground_intensity_properties_per_channel")
    assert read(tmp_path, described).normalisation == (Normalisation("ct", False, 90.0, 40.0, 10.0, 200.0),) * 2


def test_older_names_of_channels_and_twins_among_them(tmp_path):
    described = dataset() | {"modality": {"1": "MR", "0": "MR"}}
    del described["channel_names"]
    assert read(tmp_path, plans(), described).channels == ("MR_0", "MR_1")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("configurations.3d_fullres.inherits_from", "3d_small", r"leads round: 3d_small -> 3d_fullres -> 3d_small"),
        ("configurations.3d_small.inherits_from", "3d_small", r"leads round: 3d_small -> 3d_small"),
        ("configurations.3d_small.inherits_from", "4d", r"no configuration '4d'; legal: 3d_fullres, 3d_small"),
        ("configurations.3d_small.previous_stage", "3d_lowres", "a cascade needs the masks .* open 3d_fullres or"),
        ("configurations.3d_small.preprocessor_name", "os.system", r"is 'os\.system'; legal: DefaultPreprocessor"),
        ("configurations.3d_small.patch_size", [8, 12, 10**9], r"patch_size\.2 is 1000000000; legal: .* to 2048"),
        ("configurations.3d_small.patch_size", [2048, 2048, 2048], "legal: at most 134217728 voxels together"),
        ("configurations.3d_small.patch_size", [8, 12, 13], "legal: multiples of 2, 4, 4, as its strides need"),
        ("configurations.3d_small.patch_size", [8], "legal: two or three sides"),
        ("configurations.3d_small.spacing", [0.0, 1, 1], r"spacing\.0 is 0\.0; legal: a number from 0\.0001"),
        ("configurations.3d_small.normalization_schemes", ["ZScoreNormalization"], "legal: 2, one for each channel"),
        ("configurations.3d_small.normalization_schemes", ["a.b", "c"], r"schemes\.0 is 'a\.b'; legal: ZScore"),
        ("configurations.3d_small.resampling_fn_data", "resample_torch_fornnunet", "legal: resample_data_or_seg_to_s"),
        ("configurations.3d_small.resampling_fn_data_kwargs", {"order": 9}, r"kwargs\.order is 9; legal: .* 0 to 5"),
        (
            "configurations.3d_small.resampling_fn_data_kwargs",
            {"mode": 1},
            r"data_kwargs\.mode is 1; legal: no such set",
        ),
        ("configurations.3d_small.resampling_fn_data_kwargs", {"is_seg": True}, r"is_seg is True; legal: false"),
        (
            "configurations.3d_small.resampling_fn_probabilities_kwargs",
            {"separate_z_anisotropy_threshold": 4},
            r"probabilities_kwargs\.separate_z_anisotropy_threshold is 4; legal: a number from 3 to 3",
        ),
        (
            "configurations.3d_small.resampling_fn_data_kwargs",
            {"order": None},
            r"kwargs\.order is None; legal: .* 0 to 5",
        ),
        (
            "configurations.3d_small.patch_size",
            [1, 12, 12],
            r"patch_size\.0 is 1; legal: a whole number from 2 to 2048",
        ),
        ("configurations.3d_small.median_image_size_in_voxels", [1e5] * 3, "median_image_size_in_voxels is .* at most"),
        ("label_manager", "os.system", r"label_manager is 'os\.system'; legal: LabelManager; train it by"),
        ("image_reader_writer", "Tiff3DIO", "legal: SimpleITKIO, NibabelIO, .* convert the images to NIfTI"),
        ("transpose_forward", [0, 0, 1], "legal: the axes 0, 1 and 2, each once"),
        ("transpose_backward", [2, 0, 1], r"the inverse of transpose_forward \[0, 1, 2\]"),
        ("plans_per_stage", {}, "another version of nnU-Net wrote it: train by v2"),
    ],
)
def test_what_plans_may_not_say(tmp_path, key, value, said):
    with pytest.raises(FieldError, match=said):
        read(tmp_path, changed(plans(), key, value))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("channel_names", {"0": "a", "2": "b"}, "legal: 1 to 64 names under the keys 0, 1, 2"),
        ("channel_names", {}, "legal: 1 to 64 names"),
        ("labels", {"background": 0, "a": 2}, r"the values 0 \(background\), 1, 2, ... without a gap"),
        ("labels", {"background": 0}, "legal: 2 to 256 names"),
        ("labels", {"a": 0, "b": 1}, r"labels is an object of 2; legal: background among them, which is 0"),
        ("labels", {"background": 1, "a": 0}, r"labels\.background is 1; legal: a whole number from 0 to 0"),
        ("labels", {"background": 0, "a": []}, r"labels\.a is a list of 0; legal: a value, or some"),
        ("labels", {"background": 0, "a": [1, 2], "b": 2}, "no key 'regions_class_order'"),
        ("file_ending", ".png", r"legal: \.nii\.gz, \.nii; convert its images"),
    ],
)
def test_what_a_data_set_may_not_say(tmp_path, key, value, said):
    with pytest.raises(FieldError, match=said):
        read(tmp_path, plans(), changed(dataset(), key, value))


def test_folders_of_another_version(tmp_path):
    with pytest.raises(FieldError, match=r"holds no plans\.json; give the folder named TRAINER__PLANS__CONF"):
        read_plan(tmp_path, "3d_small")
    (tmp_path / "plans.pkl").write_bytes(b"")
    with pytest.raises(FieldError, match=r"of nnU-Net version 1; legal: the plans\.json of version 2; train it again"):
        read_plan(tmp_path, "3d_small")


def test_settings_of_resampling_that_are_absent_are_upstream_s_own(tmp_path):
    """Absent is what nnU-Net's function has: order 3, slices not apart; null leaves that to the spacings."""
    place = "configurations.3d_small.resampling_fn_probabilities_kwargs"
    for settings, wanted in (
        ({}, Interpolation(3, 0, False)),
        ({"order": 1, "force_separate_z": None}, Interpolation(1, 0, None)),
        (
            {"is_seg": False, "order_z": 1, "force_separate_z": True, "separate_z_anisotropy_threshold": 3.0},
            Interpolation(3, 1, True),
        ),
    ):
        assert read(tmp_path, changed(plans(), place, settings)).logits == wanted
    described = plans()
    del described["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"]
    with pytest.raises(FieldError, match="has no key 'resampling_fn_probabilities_kwargs'"):
        read(tmp_path, described)
