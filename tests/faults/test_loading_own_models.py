"""Folders of networks of one's own that others made: descriptions that name code, unknown rows, other weights."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from tests.own_folder import CODE, ROW, PlainMesh, plain_mesh, write_own
from tests.packages import install

from seglens import cli
from seglens.foreign.json_fields import FieldError
from seglens.foreign.tensors import WeightsError
from seglens.segmenters.opened import open_model

EVIL = "open({!r}, 'w').close()\n\n\ndef build(**settings):\n    return None\n"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module on the path that leaves a file where it is imported."""
    site, mark = tmp_path / "site", tmp_path / "RAN"
    site.mkdir()
    (site / "evil_nets.py").write_text(EVIL.format(str(mark)))
    install(site, "plain_mesh", CODE, ROW)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "evil_nets", raising=False)
    return mark


@pytest.mark.parametrize(
    "changes",
    [
        {"module": "evil_nets:build"},
        {"module": "evil_nets:build", "architecture": None},
        {"_target_": "evil_nets.build"},
        {"architecture": "evil_nets:build"},
        {"architecture": "evil_nets.build"},
        {"preprocessing": [{"_target_": "evil_nets.build"}], "orientation": None, "spacing_mm": None,
         "intensities": None},
        {"settings": {"width": "$__import__('evil_nets')", "dilations": [1]}},
        {"hookpoints": {"a": "evil_nets:build"}},
    ],
)  # fmt: skip
def test_row_96_descriptions_that_name_a_module(tmp_path, evil, changes):
    """A description that names a module or function, by any key, is refused with the way to name it oneself."""
    folder = write_own(tmp_path / "own", changes)
    with pytest.raises(ValueError, match=r"legal|no installed package|cannot be built|has no module"):
        open_model(folder)
    assert not evil.exists() and "evil_nets" not in sys.modules
    if "module" in changes:
        with pytest.raises(FieldError, match=r"module is 'evil_nets:build'; legal: no name of code.*--module"):
            open_model(folder, network=PlainMesh)


def test_row_96_unknown_rows(tmp_path, evil, monkeypatch, capsys):
    """A row that no installed package has, or of models of others, is refused with those that there are."""
    folder = write_own(tmp_path / "own", {"architecture": "plain-mes"})
    monkeypatch.setattr("sys.argv", ["seglens", "open", str(folder), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.REFUSED
    assert "no installed package has such a row; did you mean 'plain-mesh'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="architecture 'monai': no installed package has such a row"):
        open_model(folder, settings={"architecture": "monai"})
    with pytest.raises(ValueError, match="dimensions is 3, and the row unet has 2"):
        open_model(folder, settings={"architecture": "unet", "settings": {}})
    with pytest.raises(ValueError, match="plain-mesh has no settings depth; it has width, dilations"):
        open_model(folder, settings={"architecture": "plain-mesh", "settings": {"depth": 3}})


def test_row_96_weights_that_do_not_fit(tmp_path, evil):
    """Weights of another network, or none, are refused by name and shape before the network takes memory."""
    folder = write_own(tmp_path / "own", network=plain_mesh(width=5))
    with pytest.raises(ValueError, match=r"layers.0.weight is \(5, 1, 3, 3, 3\), the network needs \(6, 1, 3, 3, 3\)"):
        open_model(folder)
    with pytest.raises(ValueError, match=r"the network needs \(60000, 60000, 3, 3, 3\)"):  # 350 GB a layer
        open_model(folder, settings={"settings#width": 60_000})
    save_file({**plain_mesh().state_dict(), "head.bias": torch.full((3,), float("nan"))}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"head\.bias"):
        open_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is not a file; save the weights beside the description"):
        open_model(folder)


def test_row_96_absurd_values(tmp_path, evil):
    """A description of absurd sizes, that contradicts itself, or is no object is refused by its key."""
    folder = write_own(tmp_path / "own")
    for settings, message in (
        ({"settings": {"width": 10**12}}, "settings.width"),
        ({"settings": {"dilations": [1] * 100}}, "settings.dilations is a list of 100"),
        ({"window": [10**6, 8, 8]}, "window.0 is 1000000"),
        ({"labels": ["a"] * 300}, "labels is a list of 300"),
        ({"decision": "the largest"}, "decision is 'the largest'; legal: classes, regions, nested"),
    ):
        with pytest.raises(FieldError, match=message):
            open_model(folder, settings=settings)
    (folder / "seglens.json").write_text('{"sequences": ["T1"], "sequences": ["T2"]}')
    with pytest.raises(FieldError, match="sequences"):
        open_model(folder)
    (folder / "seglens.json").write_text(json.dumps([1]))
    with pytest.raises(FieldError, match="it holds a list of 1; legal: an object"):
        open_model(folder)
