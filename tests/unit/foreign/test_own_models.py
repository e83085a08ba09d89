"""Descriptions of networks of one's own, as plain values."""

import json

import pytest
from tests.own_folder import DESCRIPTION

from seglens.foreign.bundle_steps import Call
from seglens.foreign.json_fields import FieldError
from seglens.foreign.own_models import Place, own_description, read_own


def folder(tmp_path, changes=None):
    described = {key: value for key, value in {**DESCRIPTION, **(changes or {})}.items() if value is not None}
    (tmp_path / "seglens.json").write_text(json.dumps(described))
    return tmp_path


def test_steps_of_the_short_keys(tmp_path):
    assert own_description(tmp_path) is None
    plan = read_own(folder(tmp_path)).steps
    assert [call.name for call in plan.transforms] == ["Orientationd", "Spacingd", "ScaleIntensityRangePercentilesd"]
    assert plan.transforms[0].arguments == {"axcodes": "LIA"}
    wanted = {"lower": 2.0, "upper": 98.0, "channel_wise": True, "b_min": 0.0, "b_max": 1.0, "clip": True}
    assert plan.transforms[2].arguments == wanted
    assert (plan.heads, plan.codes, plan.regions) == (("Unknown", "Thalamus", "Hippocampus"), (0, 10, 17), False)
    assert (plan.windows.sides, plan.channels) == ((), ("T1",))


def test_other_rules_windows_and_places(tmp_path):
    rule = {"rule": "range", "low": -57, "high": 164, "to": [-1, 1], "clip": False}
    spots = {"a": "layers.0", "b": {"module": "vit", "layout": "BNC", "item": 0, "grid": [1, 2, 3]}}
    own = read_own(
        folder(
            tmp_path,
            {"intensities": rule, "decision": "nested", "labels": ["whole", "core"], "window": [8, 8, 8],
             "overlap": 0.25, "gaussian": True, "hookpoints": spots, "weights": "w.pt"},
        )
    )  # fmt: skip
    assert own.steps.transforms[-1] == Call(
        "ScaleIntensityRanged", {"a_min": -57, "a_max": 164, "b_min": -1, "b_max": 1, "clip": False}
    )
    assert (own.steps.regions, own.steps.nested, own.steps.codes) == (True, True, (1, 2))
    assert own.steps.windows.sides == (8, 8, 8) and own.steps.windows.overlap == (0.25,) and own.steps.windows.gaussian
    assert dict(own.places) == {"a": Place("layers.0"), "b": Place("vit", "BNC", 0, (1, 2, 3))}
    zscore = read_own(tmp_path, {"intensities": {"rule": "zscore", "nonzero": True}}).steps.transforms[-1]
    assert zscore == Call("NormalizeIntensityd", {"nonzero": True, "channel_wise": True})


def test_a_description_in_yaml_with_steps_of_the_table(tmp_path):
    (tmp_path / "seglens.yaml").write_text(
        "sequences: [T1]\nlabels: [background, lesion]\ndimensions: 2\nslice_axis: 1\n"
        "preprocessing:\n  - {_target_: CropForegroundd, margin: 4}\n"
    )
    own = read_own(tmp_path)
    assert own.steps.transforms == (Call("CropForegroundd", {"margin": 4}),)
    assert (own.architecture, own.steps.windows.slice_axis, own.steps.windows.sides) == ("", 1, (0, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orientaton": "RAS"}, "'orientaton' is no key of a description; did you mean 'orientation'"),
        ({"orientation": "LIP"}, None),
        ({"orientation": "RAX"}, "orientation.axcodes is 'RAX'; legal: three letters"),
        ({"spacing_mm": [1, 1]}, "spacing_mm is a list of 2; legal: a list of 3 values"),
        ({"spacing_mm": [1, 1, 1e-9]}, r"spacing_mm\.2 is 1e-09; legal: a number from 0.001"),
        ({"intensities": {"rule": "histogram"}}, "intensities.rule is 'histogram'; legal: quantiles, range, zscore"),
        ({"intensities": {"rule": "zscore", "low": 0}}, "intensities.'low' is no key"),
        ({"intensities": {"rule": "quantiles", "low": 2, "high": 98}}, "intensities.low is 2; legal: a number from 0"),
        ({"intensities": {"rule": "range", "low": 5, "high": 5}}, "intensities.high is 5; legal: a number above low"),
        ({"labels": {"1": "a", "2": "b"}}, "labels is an object of 2; legal: different values, 0 first"),
        ({"labels": {"0": "a", "70000": "b"}}, "labels.70000 is 'b'; legal: a name whose key"),
        ({"labels": ["a"]}, "labels is a list of 1; legal: 2 to 255 names"),
        ({"sequences": []}, "sequences is a list of 0; legal: 1 to 64 names"),
        ({"window": "all"}, "window is 'all'; legal: a list of 3 values"),
        ({"window": [0, 8, 8]}, "window.0 is 0; legal: a whole number from 1"),
        ({"slice_axis": 1}, "slice_axis is 1; legal: none"),
        ({"weights": "../other.pt"}, "weights is '../other.pt'; legal: the name of a file beside"),
        ({"settings": {"width": 10**9}}, "settings.width is 1000000000; legal: a whole number from -1 to 65536"),
        ({"preprocessing": []}, "legal: preprocessing, or orientation, .*stands beside it"),
        ({"hookpoints": {"a b": "x"}}, "legal: names of letters"),
        ({"hookpoints": {"a": {"module": "x", "layout": "HWC"}}}, "hookpoints.a.layout is 'HWC'; legal: BCHW"),
    ],
)  # fmt: skip
def test_what_is_legal(tmp_path, changes, message):
    written = folder(tmp_path, changes)
    if message is None:
        assert read_own(written).steps.transforms[0].arguments == {"axcodes": "LIP"}
        return
    with pytest.raises(FieldError, match=message):
        read_own(written)
