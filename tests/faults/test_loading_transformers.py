"""Folders of transformers that others made: configurations that name code, are absurd or are of other weights."""

import json

import pytest
from safetensors.torch import save_file

from seglens.segmenters.opened import open_model
from seglens.segmenters.segformer import segformer

CONFIG = {
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 8,
    "id2label": {"0": "wall", "1": "polyp"},
}
PROCESSOR = {"size": 64, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
SETTINGS = ("hidden_sizes", "depths", "num_attention_heads", "decoder_hidden_size")


def folder_of(path, config=None, processor=None):
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | (processor or {})))
    weights = segformer(3, 2, {key: CONFIG[key] for key in SETTINGS}).state_dict()
    save_file({name: value.clone() for name, value in weights.items()}, path / "model.safetensors")
    return path


@pytest.mark.parametrize("key", ["auto_map", "model_type", "architectures", "hidden_act", "_target_"])
def test_row_95_names_of_code(tmp_path, monkeypatch, key):
    """A config.json that names code by any key is refused by that key; nothing is imported or called."""
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("it was run"))
    assert open_model(folder_of(tmp_path)).labels == {0: "wall", 1: "polyp"}
    with pytest.raises(ValueError, match=rf"{key} is .*; legal: "):
        open_model(folder_of(tmp_path, {key: "os.system"}))


@pytest.mark.parametrize(
    ("config", "processor", "words"),
    [
        ({"depths": [1, 1, 1, 10**9]}, {}, "depths.3"),
        ({"hidden_sizes": [8192] * 4}, {}, "these weights are not of this network"),
        ({"id2label": {"0": "a", "5": "b"}}, {}, "without a gap"),
        ({}, {"size": 10**9}, "from 32 to 4096"),
        ({}, {"image_std": [0, 1, 1]}, "image_std.0"),
        ({}, {"do_center_crop": True}, "do_center_crop"),
        ({}, {"default_to_square": False}, "default_to_square"),
    ],
)
def test_row_95_absurd_values(tmp_path, config, processor, words):
    """Absurd sizes, gaps in the classes, steps that are not done and other weights are refused with what is legal."""
    with pytest.raises(ValueError, match="; ") as caught:
        open_model(folder_of(tmp_path, config, processor))
    assert words in str(caught.value)
