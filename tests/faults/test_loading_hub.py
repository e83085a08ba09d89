"""Pretrained weights where the model hub does not answer."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.toys import LABELS, TINY_SEGFORMER, tiny_segmenter

from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.pretrained import refuse_unpinned
from seglens.studies.settings import SettingsError, StudySettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"

BUILD = """
import sys, time
time.sleep = lambda seconds: None  # the hub's client tries again and again: nobody waits for that here
from seglens.segmenters.architectures import build_segmenter
from tests.toys import LABELS, TINY_SEGFORMER
for name in sys.argv[1:]:
    try:
        made = build_segmenter(
            sequences=("T1",), labels=LABELS, size=32, settings=TINY_SEGFORMER, pretrained=name
        )
        print("made", made.network.get_submodule("segformer").state_dict()["stages.3.layer_norm.weight"].sum().item())
    except ValueError as error:
        print("refused", error)
"""


def saved(folder):
    """An encoder as the hub keeps it."""
    from transformers.models.segformer.modeling_segformer import SegformerModel

    network = SegformerModel(tiny_segmenter(seed=3).network.config)
    with torch.no_grad():
        network.stages[3].layer_norm.weight.fill_(2.0)
    network.save_pretrained(folder)
    return folder


@pytest.mark.processes
def test_row_54_hub_offline(tmp_path):
    """With no hub in reach a pinned revision comes from the cache; what is not whole there is refused."""
    model = tmp_path / "cache" / "models--owner--model"
    saved(model / "snapshots" / COMMIT)
    (tmp_path / "cache" / "models--owner--half" / "snapshots" / COMMIT).mkdir(parents=True)
    names = [f"owner/model@{COMMIT}", f"owner/model@{COMMIT[::-1]}", f"owner/half@{COMMIT}", "owner/model"]
    # no service listens there
    nowhere = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_ETAG_TIMEOUT": "1"}
    nowhere |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    command = [sys.executable, "-c", BUILD, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | nowhere)
    lines = done.stdout.splitlines()
    assert lines[0] == "made 64.0"
    assert lines[1].startswith(f"refused pretrained 'owner/model@{COMMIT[::-1]}' is not whole in the hub's cache, and")
    assert lines[1].endswith(f"where there is a network: hf download owner/model --revision {COMMIT[::-1]}")
    assert lines[2].startswith(f"refused pretrained 'owner/half@{COMMIT}' is not whole")
    assert lines[3].startswith(
        "refused pretrained 'owner/model' is neither a folder nor a model of the hub with its co"
    )


@pytest.mark.parametrize("name", ["nvidia/mit-b0", "nvidia/mit-b0@main", f"../x@{COMMIT}/y", "", f"a/b/c@{COMMIT}"])
def test_row_54_unpinned_model(name, tmp_path):
    """A model of the hub without its commit is refused with the settings: its weights may change overnight."""
    with pytest.raises(ValueError, match="neither a folder nor a model of the hub with its commit"):
        refuse_unpinned(name)
    content = {
        "sequences": ["T1c"],
        "cohorts": {"adult": {"phantom": {"population": "adult"}}},
        "segmenters": {"adult": {"cohort": "adult", "pretrained": name}},
    }
    with pytest.raises(SettingsError, match=r"segmenters\.adult\.pretrained: Value error, pretrained .* is neither"):
        StudySettings.parse(content, "study.yaml")
    content["segmenters"]["adult"]["pretrained"] = str(tmp_path)
    StudySettings.parse(content, "study.yaml")


def test_row_54_unsound_weights_in_a_folder(tmp_path):
    """Pretrained weights in a folder are checked like all foreign weights."""

    def build():
        return build_segmenter(
            sequences=("T1",), labels=LABELS, size=32, settings=TINY_SEGFORMER, pretrained=str(tmp_path)
        )

    with pytest.raises(ValueError, match="pretrained"):
        build()
    file = saved(tmp_path) / "model.safetensors"
    sound = load_file(file)
    assert build().n_classes == 3
    save_file({name: sound[name] for name in sound if "layer_norm" not in name}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"is no whole SegFormer encoder: stages\.0\..* and \d+ more are not in it"):
        build()
    key = next(name for name in sound if name.endswith("layer_norm.3.weight") or name.endswith("3.layer_norm.weight"))
    save_file({**sound, key: torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="pretrained"):
        build()
    save_file({name: tensor / 0 for name, tensor in sound.items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"not finite in stages\.0\."):
        build()
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a sound safetensors file"):
        build()
