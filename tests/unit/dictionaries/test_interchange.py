import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from seglens.dictionaries.interchange import export_saelens, import_saelens


def jumprelu(folder, x):
    """What the format says: ReLU of the pre-activations where they are above the threshold, then the decoder."""
    weights = load_file(folder / "sae_weights.safetensors")
    configuration = json.loads((folder / "cfg.json").read_text())
    x = x - weights["b_dec"] if configuration["apply_b_dec_to_input"] else x
    pre = x @ weights["W_enc"] + weights["b_enc"]
    codes = pre.relu() * (pre > weights["threshold"])
    return codes, codes @ weights["W_dec"] + weights["b_dec"]


def assert_same_inference(dictionary, codes, reconstruction, tokens):
    own = dictionary.encode(tokens)
    torch.testing.assert_close(codes, own.to_dense(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reconstruction, dictionary.decode(own), rtol=1e-4, atol=1e-4)


def test_the_formats_inference_on_raw_activations_equals_ours(dictionary, tokens, tmp_path):
    folder = export_saelens(dictionary, tmp_path / "sae")
    assert_same_inference(dictionary, *jumprelu(folder, tokens), tokens)


def test_round_trip_gives_the_dictionary_back(dictionary, tokens, tmp_path):
    back = import_saelens(export_saelens(dictionary, tmp_path / "sae"))
    assert back.description() == dictionary.description()
    codes = back.encode(tokens)
    assert_same_inference(dictionary, codes.to_dense(), back.decode(codes), tokens)
    for name, tensor in dictionary.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("on_input", [True, False])
def test_a_foreign_folder_keeps_its_inference(dictionary, tokens, tmp_path, on_input):
    folder = export_saelens(dictionary, tmp_path / "sae")
    change(folder, apply_b_dec_to_input=on_input, metadata={"hook_name": "blocks.3", "k": 5})
    foreign = import_saelens(folder)
    assert (foreign.k, foreign.hookpoint, float(foreign.scale)) == (5, "blocks.3", 1.0)
    assert import_saelens(folder, k=2, hookpoint="stage1").description()["hookpoint"] == "stage1"
    assert_same_inference(foreign, *jumprelu(folder, tokens), tokens)


def change(folder, **settings):
    configuration = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(configuration | settings))


def change_weights(folder, **tensors):
    save_file(load_file(folder / "sae_weights.safetensors") | tensors, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"architecture": "gated"}, "architecture is 'gated', only 'jumprelu'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"d_sae": 25}, r"W_enc is \(6, 24\), cfg.json says \(6, 25\)"),
    ],
)
def test_configurations_that_change_inference_are_refused(dictionary, tmp_path, settings, complaint):
    folder = export_saelens(dictionary, tmp_path / "sae")
    change(folder, **settings)
    with pytest.raises(ValueError, match=complaint):
        import_saelens(folder)


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"threshold": torch.linspace(0.1, 0.2, 24)}, "thresholds differ between latents"),
        ({"threshold": torch.full((24,), -1.0)}, "must be at least 0"),
        ({"b_dec": torch.full((6,), torch.nan)}, "b_dec has values that are not finite"),
        ({"s": torch.zeros(1)}, "expected"),
    ],
)
def test_weights_that_cannot_be_taken_over_are_refused(dictionary, tmp_path, tensors, complaint):
    folder = export_saelens(dictionary, tmp_path / "sae")
    change_weights(folder, **tensors)
    with pytest.raises(ValueError, match=complaint):
        import_saelens(folder)


def test_missing_and_damaged_files_are_named(dictionary, tmp_path):
    with pytest.raises(ValueError, match=r"cfg\.json and sae_weights\.safetensors missing"):
        import_saelens(tmp_path)
    folder = export_saelens(dictionary, tmp_path / "sae")
    with pytest.raises(ValueError, match="already holds"):
        export_saelens(dictionary, folder)
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list"):
        import_saelens(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"\xff" * 16)
    with pytest.raises(ValueError, match="cannot be read"):
        import_saelens(folder)


def test_sae_lens_loads_what_we_export(dictionary, tokens, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    theirs = sae_lens.SAE.load_from_disk(export_saelens(dictionary, tmp_path / "sae"))
    assert theirs.cfg.architecture() == "jumprelu"
    with torch.no_grad():
        codes = theirs.encode(tokens)
        assert_same_inference(dictionary, codes, theirs.decode(codes), tokens)
    theirs.save_model(tmp_path / "back")
    back = import_saelens(tmp_path / "back")
    assert back.description() == dictionary.description()
