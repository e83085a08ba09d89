import json

import pytest
from tests.bundle_folder import CT, config

from seglens.foreign.bundle_config import Config
from seglens.foreign.bundle_steps import Call, ExportPlan, WindowPlan, read_export, read_transforms, read_windows
from seglens.foreign.json_fields import FieldError


def read(tmp_path, **changes):
    (tmp_path / "inference.json").write_text(json.dumps(config() | changes))
    return Config.read(tmp_path / "inference.json")


def test_steps_that_change_an_image(tmp_path):
    own = read(tmp_path)
    orientation, spacing, scaling = read_transforms(own, own.entry("preprocessing"))
    assert orientation == Call("Orientationd", {"axcodes": "RAS"})
    assert spacing == Call("Spacingd", {"pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"})
    assert scaling.arguments == {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}


def test_lists_are_joined_and_disabled_steps_left_out(tmp_path):
    own = read(
        tmp_path, loading=[{"_target_": "LoadImaged"}], steps=[{**CT[0], "_disabled_": "@off"}, CT[2]], off=True,
        preprocessing={"_target_": "monai.transforms.Compose", "transforms": "$@loading + @steps"},
    )  # fmt: skip
    assert [call.name for call in read_transforms(own, own.entry("preprocessing"))] == ["ScaleIntensityRanged"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"_target_": "Lambdad", "func": "$lambda x: x"}, "_target_ is 'Lambdad'"),
        ({"_target_": "scripts.own.Stepd"}, "nothing else is looked up"),
        ({"_target_": "Resized", "spatial_size": [8, 9000]}, "spatial_size"),
        ({"_target_": "Spacingd", "pixdim": 1, "mode": "cubist"}, "mode is 'cubist'"),
        ({"_target_": "CropForegroundd", "select_fn": "$lambda x: x > 0"}, "CropForegroundd with margin"),
    ],
)
def test_steps_that_are_refused(tmp_path, step, message):
    own = read(tmp_path, preprocessing=[step])
    with pytest.raises(FieldError, match=message):
        read_transforms(own, own.entry("preprocessing"))


@pytest.mark.parametrize(
    ("inferer", "n_axes", "plan"),
    [
        ({"_target_": "SimpleInferer"}, 3, WindowPlan()),
        ({"_target_": "SlidingWindowInferer", "roi_size": 32, "mode": "gaussian", "sigma_scale": 0.2}, 3,
         WindowPlan((32, 32, 32), (0.25,), True, 0.2)),
        ({"_target_": "monai.inferers.SlidingWindowInferer", "roi_size": [32, -1, None], "overlap": [0, 0.5, 0.1]}, 3,
         WindowPlan((32, 0, 0), (0.0, 0.5, 0.1))),
        ({"_target_": "SliceInferer", "roi_size": [8, 9], "spatial_dim": 2, "padding_mode": "reflect"}, 2,
         WindowPlan((8, 9), padding="reflect", slice_axis=2)),
    ],
)  # fmt: skip
def test_windows(tmp_path, inferer, n_axes, plan):
    own = read(tmp_path, inferer=inferer)
    assert read_windows(own, own.entry("inferer"), n_axes) == plan


@pytest.mark.parametrize(
    "inferer",
    [{"_target_": "PatchInferer"}, {"_target_": "SlidingWindowInferer"},
     {"_target_": "SlidingWindowInferer", "roi_size": [8, 8]},
     {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "overlap": [0.1, 0.2]}],
)  # fmt: skip
def test_windows_that_are_refused(tmp_path, inferer):
    own = read(tmp_path, inferer=inferer)
    with pytest.raises(FieldError, match="inferer"):
        read_windows(own, own.entry("inferer"), 3)


ACTIVE, BACK, DECIDED, LABELLED, SAVED = config()["postprocessing"]["transforms"]


@pytest.mark.parametrize(
    ("after", "plan", "regions"),
    [
        ([ACTIVE, BACK, DECIDED], ExportPlan("probabilities", False), False),
        ([ACTIVE, {**BACK, "nearest_interp": True}, DECIDED, LABELLED], ExportPlan("probabilities", True, ("Lambdad",)),
         False),
        ([BACK, {**DECIDED, "argmax": [True, False]}], ExportPlan("logits", False), False),
        ([ACTIVE, DECIDED, BACK], ExportPlan("labels", True), False),
        ([{"_target_": "Activationsd", "sigmoid": True}, SAVED], ExportPlan("probabilities", False), True),
        ([{"_target_": "AsDiscreted", "threshold": 0.5}], ExportPlan("probabilities", False), True),
        ("$monai.transforms.Compose([])", ExportPlan(), None),
        ([{"_target_": "scripts.merge.Merged"}], ExportPlan(left_out=("scripts.merge.Merged",)), None),
    ],
)  # fmt: skip
def test_the_way_back(tmp_path, after, plan, regions):
    own = read(tmp_path, postprocessing=after)
    assert read_export(own, own.entry("postprocessing")) == (plan, regions)


def test_another_threshold_is_refused(tmp_path):
    own = read(tmp_path, postprocessing=[{"_target_": "AsDiscreted", "threshold": 0.3}])
    with pytest.raises(FieldError, match=r"threshold is 0\.3; legal: 0\.5"):
        read_export(own, own.entry("postprocessing"))
