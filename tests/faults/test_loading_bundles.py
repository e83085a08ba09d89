"""MONAI bundles that others made: configurations and weights that are hostile, absurd or do not fit."""

import json

import pytest
import torch
from tests.bundle_folder import SLIDING, UNET, config, metadata, network_of, write_bundle, write_images

from seglens import cli
from seglens.foreign.bundles import read_bundle
from seglens.foreign.json_fields import FieldError
from seglens.foreign.tensors import WeightsError
from seglens.segmenters.opened import open_model


class Evil:
    """Leaves a file where it was asked to, when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return exec, (f"open({self.place!r}, 'w').close()",)


def with_config(folder, described, about=None):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/inference.json").write_text(json.dumps(described))
    (folder / "configs/metadata.json").write_text(json.dumps(about or metadata()))
    return folder


@pytest.mark.parametrize("key", ["network_def", "inferer", "preprocessing#transforms#2"])
def test_row_92_targets_that_are_code(tmp_path, monkeypatch, capsys, key):
    """A bundle whose _target_ is os.system, in any place, is refused by the key; nothing is imported or called."""
    described = config()
    at = described
    for part in key.split("#"):
        at = at[int(part)] if isinstance(at, list) else at[part]
    at["_target_"] = "os.system"
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr("sys.argv", ["seglens", "open", str(with_config(tmp_path, described)), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == cli.REFUSED
    assert f"{key.replace('#', '.')}._target_ is 'os.system'; legal: " in said


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("network_def#in_channels", "$__import__('os').system('touch RAN')"),
        ("network_def#channels", "$[open('RAN', 'w') for _ in (1,)]"),
        ("network_def#norm", "$().__class__.__mro__"),
        ("network_def#strides", "%configs/other.json::strides"),
        ("inferer#roi_size", "$[96] * 3"),
        ("inferer#overlap", "$2 ** 999999999"),
        ("preprocessing#transforms#3#pixdim", "$len(open('RAN', 'w').name)"),
        ("network_def", "$monai.networks.nets.UNet(3)"),
        ("preprocessing", "$monai.transforms.Compose([])"),
        ("preprocessing#transforms#4#a_max", "$" + "(" * 200 + ")" * 200),
    ],
)
def test_row_92_expressions_where_a_value_is_needed(tmp_path, monkeypatch, key, text):
    """An expression where a value is needed is refused by its key with its text and the cure; it is never evaluated."""
    monkeypatch.chdir(tmp_path)
    folder = with_config(tmp_path / "b", config())
    with pytest.raises(FieldError, match="; ") as refused:
        read_bundle(folder, {key: text})
    assert text[:40] in str(refused.value) or text.startswith("$[96]")
    assert key.replace("#", ".") in str(refused.value) and "settings=" in str(refused.value)
    assert not (tmp_path / "RAN").exists()


def test_row_92_expressions_that_nothing_needs(tmp_path):
    """Code that opening does not need (output folders, post-processing, handlers) is left alone, not an obstacle."""
    described = config(handlers=[{"_target_": "os.system", "command": "$__import__('os').abort()"}])
    folder = write_bundle(tmp_path / "b", described)
    assert open_model(folder).plan.export.left_out == ("Lambdad",)


@pytest.mark.parametrize("n", [1, 2, 200])
def test_row_92_references_that_lead_round(tmp_path, n):
    """References that lead round, or through a chain without end, are refused with the way; doubling ones by count."""
    chain = {f"a{number}": f"@a{(number + 1) % n}" for number in range(n)}
    folder = with_config(tmp_path / "round", config({**UNET, "out_channels": "@a0"}, **chain))
    with pytest.raises(FieldError, match=r"leads round: a0|40 levels"):
        read_bundle(folder)
    doubling = {f"a{number}": [f"@a{number + 1}"] * 2 for number in range(40)} | {"a40": 1}
    folder = with_config(tmp_path / "doubling", config({**UNET, "channels": "@a0"}, **doubling))
    with pytest.raises(FieldError, match="at most 20000 values"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_def#channels", [1 << 40, 4]),
        ("network_def#channels", [4] * 1000),
        ("network_def#num_res_units", 10**6),
        ("network_def#in_channels", 10**9),
        ("network_def#out_channels", 0),
        ("network_def#spatial_dims", 4),
        ("network_def#dropout", float(10**20)),
        ("inferer#roi_size", [10**6, 16, 16]),
        ("inferer#overlap", 0.9999999),
        ("preprocessing#transforms#3#pixdim", [1e-9, 1, 1]),
        ("preprocessing#transforms#2#axcodes", "RAX"),
    ],
)
def test_row_92_absurd_sizes(tmp_path, key, value):
    """Absurd widths, depths, windows, overlaps and spacings are refused by their key before any allocation."""
    with pytest.raises(FieldError, match="; legal: ") as refused:
        read_bundle(with_config(tmp_path / "b", config()), {key: value})
    assert key.split("#")[-1] in str(refused.value)


def test_row_92_widths_that_are_legal_and_not_the_file_s(tmp_path):
    """A network of terabytes costs no memory: its sizes are compared with the file's first."""
    folder = write_bundle(tmp_path / "b")
    with pytest.raises(ValueError, match="these weights are not of this network"):
        open_model(folder, settings={"network_def#channels": [60000, 60000, 60000]})


def test_row_92_a_spacing_that_no_memory_holds(tmp_path):
    """A spacing that makes of a case more voxels than any memory holds is refused before it is resampled."""
    steps = ({"_target_": "Spacingd", "keys": "image", "pixdim": [0.001, 0.001, 0.001]},)
    model = open_model(write_bundle(tmp_path / "b", config(steps=steps)))
    with pytest.raises(ValueError, match=r"Spacingd .* makes .* voxels of it; legal are at most"):
        model.predict(write_images(tmp_path / "images"))


def test_row_93_weights_that_run_code(tmp_path):
    """Weights of a bundle that want to run code are refused, and nothing of them has run."""
    folder = write_bundle(tmp_path / "b")
    torch.save({"a": Evil(tmp_path / "RAN")}, folder / "models/model.pt")
    with pytest.raises(WeightsError, match="A file that runs code is never opened"):
        open_model(folder)
    assert not (tmp_path / "RAN").exists()


def test_row_93_weights_that_do_not_fit(tmp_path):
    """Weights of another network than the configuration's are refused with what does not fit."""
    folder = write_bundle(tmp_path / "b", network=network_of({**UNET, "channels": [4, 6, 9]}))
    with pytest.raises(ValueError, match=r"model\.pt: these weights are not of this network: .* the network needs"):
        open_model(folder)


def test_row_93_torchscript(tmp_path):
    """TorchScript in the place of weights is refused as a file that runs code, with what to do."""
    folder = write_bundle(tmp_path / "b")
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(torch.nn.Conv3d(1, 2, 1)), folder / "models/model.pt")
    with pytest.raises(WeightsError, match="save the state dict alone"):
        open_model(folder)


def test_row_93_arguments_that_no_network_can_be_built_of(tmp_path):
    """Arguments that MONAI's class itself refuses are refused with its reason."""
    folder = write_bundle(tmp_path / "b")
    with pytest.raises(ValueError, match="MONAI's UNet cannot be built of the arguments"):
        open_model(folder, settings={"network_def#act": "no such activation"})


def test_row_93_planes_and_volumes(tmp_path):
    """A network of planes that is given a volume, or the other way round, is refused with both and the setting."""
    planes = {**UNET, "spatial_dims": 2}
    steps = ({"_target_": "ScaleIntensityd", "keys": "image"},)
    inferer = {**SLIDING, "roi_size": [16, 16]}
    folder = write_bundle(tmp_path / "b", config(planes, steps=steps, inferer=inferer))
    with pytest.raises(ValueError, match=r"a network of 2 axes of space and an image of 20 x 18 x 14 .*SliceInferer"):
        open_model(folder).predict(write_images(tmp_path / "images"))
