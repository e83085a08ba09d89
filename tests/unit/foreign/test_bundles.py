import pytest
from tests.bundle_folder import UNET, config, metadata, write_bundle

from seglens.foreign.bundles import bundle_config, read_bundle
from seglens.foreign.json_fields import FieldError

BRATS = ("Tumor core", "Whole tumor", "Enhancing tumor")


def plan(folder, described=None, about=None, **settings):
    return read_bundle(write_bundle(folder, described, about), settings)


@pytest.mark.parametrize("yaml", [False, True])
def test_classes(tmp_path, yaml):
    folder = write_bundle(tmp_path / "b", yaml=yaml)
    found = read_bundle(folder)
    assert bundle_config(folder).suffix == (".yaml" if yaml else ".json")
    assert (found.name, found.version, found.network.name, found.spatial_dims) == ("b", "0.1.0", "UNet", 3)
    assert (found.channels, found.heads, found.regions) == (("image",), ("background", "spleen"), False)
    assert (found.order, found.codes, found.nested, found.shape) == ((0, 1), (0, 1), False, (16, 16, 16))


def test_regions_of_brats_and_others(tmp_path):
    three = {**UNET, "out_channels": 3}
    brats = plan(tmp_path / "a", config(three, decide="sigmoid"), metadata(heads=BRATS, shape=["8*n"] * 3))
    assert (brats.order, brats.codes, brats.nested) == ((1, 0, 2), (2, 1, 4), True)
    assert (brats.shape, brats.multiple) == ((0, 0, 0), 8)
    other = plan(tmp_path / "b", config(three, decide="sigmoid"), metadata(heads=["liver", "vessel", "lesion"]))
    assert (other.order, other.codes, other.nested) == ((0, 1, 2), (1, 2, 3), False)
    classes = plan(tmp_path / "c", config(three), metadata(heads=BRATS))
    assert (classes.order, classes.nested) == ((0, 1, 2), False)


def test_names_that_the_metadata_do_not_give(tmp_path):
    described = config({**UNET, "in_channels": 2})
    assert plan(tmp_path / "a", described, {"version": 3}).channels == ("channel_0", "channel_1")
    twice = plan(tmp_path / "b", described, metadata(["MR", "MR"], ["", "a"]))
    assert (twice.channels, twice.heads) == (("MR_0", "MR_1"), ("class_0", "a"))
    assert plan(tmp_path / "c", described, metadata(["one"])).channels == ("channel_0", "channel_1")


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    folder = write_bundle(tmp_path / "b")
    with pytest.raises(FieldError, match=r"network_def\._target_ is 'DiNTS'; legal: UNet.*Segmenter\.wrap"):
        read_bundle(folder, {"network_def#_target_": "DiNTS"})
    with pytest.raises(FieldError, match="it has no key 'inferer'"):
        read_bundle(folder, {"inferer": None})
    with pytest.raises(FieldError, match=r"preprocess is .*a class or function is never taken"):
        read_bundle(folder, {"network_def#preprocess": "os.system"})
    with pytest.raises(FieldError, match="out_channels is 1 and its postprocessing says softmax"):
        read_bundle(folder, {"network_def#out_channels": 1})
    with pytest.raises(FieldError, match=r"holds no configs/inference\.json"):
        read_bundle(tmp_path)
