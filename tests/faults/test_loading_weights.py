"""Weights that others made: torch files, safetensors, and what a saved segmenter or dictionary claims to be."""

import json
import pickle
import re
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.interchange import export_saelens, import_saelens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.foreign.tensors import MAX_HEADER_BYTES, WeightsError, check_safetensors, read_safetensors, read_weights
from seglens.segmenters.weights import fit_weights


class Evil:
    """Leaves a file where it was asked to, when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return exec, (f"open({self.place!r}, 'w').close()",)


def packed(header, data=b"", header_bytes=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_plain_weights_are_read_wherever_they_lie(tmp_path):
    weights = nn.Linear(2, 3).state_dict()
    for name, content in {"a.pt": weights, "b.pth": {"state_dict": weights}, "c.bin": {"model": weights}}.items():
        torch.save(content, tmp_path / name)
        assert torch.equal(read_weights(tmp_path / name)["weight"], weights["weight"])
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pt")["bias"], weights["bias"])
    save_file(weights, tmp_path / "d.safetensors")
    assert torch.equal(read_weights(tmp_path / "d.safetensors")["bias"], weights["bias"])
    with pytest.raises(WeightsError, match=r"read from .safetensors, .pt"):
        read_weights(tmp_path / "weights.onnx")


@pytest.mark.parametrize("zipped", [True, False])
def test_row_46_torch_file_that_runs_code(tmp_path, zipped):
    """A .pt that wants to run code is refused, and nothing of it has run."""
    torch.save({"weights": Evil(tmp_path / "ran")}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        WeightsError, match=r"evil\.pt: cannot be read as plain weights .* never opened; save the state"
    ):
        read_weights(tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="never opened"):
        read_weights(tmp_path / "bare.pt")
    assert not (tmp_path / "ran").exists()


def test_row_46_no_unsafe_fallback():
    """No line of the product opens a file by pickle, or by torch.load."""
    from pathlib import Path

    import seglens

    for file in Path(seglens.__file__).parent.rglob("*.py"):
        text = file.read_text()
        for word in (
            "torch.load(",
            "weights_only=",
            "import pickle\n",
            "allow_pickle=True",
            "yaml.load(",
            "yaml.unsafe",
        ):
            assert word not in text, (file, word)


def test_row_46_torch_file_that_unfolds(tmp_path):
    """A .pt whose records unfold to more than the file, or whose tensors are larger than it, is refused."""
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="its records unfold to"):
        read_weights(tmp_path / "bomb.pt")
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "view.pt")
    with pytest.raises(WeightsError, match="w are larger than the file"):
        read_weights(tmp_path / "view.pt")
    torch.save({"w": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(WeightsError, match="sparse"):
        read_weights(tmp_path / "sparse.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], torch.zeros(1)])
def test_row_46_torch_file_without_weights(tmp_path, content):
    """A .pt that holds something else says so."""
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"holds no state dict; save network\.state_dict\(\) alone"):
        read_weights(tmp_path / "odd.pt")


BAD_SAFETENSORS = {
    "too short": (b"1234", "it holds 4 bytes"),
    "absurd header": (packed({}, header_bytes=2**60), rf"said to be {2**60} bytes of 10; legal are {MAX_HEADER_BYTES}"),
    "header past the end": (packed({}, header_bytes=3), "said to be 3 bytes of 10"),
    "no JSON": (packed(b"{'a': 1}"), "no JSON object"),
    "no text": (packed(b"\xff" * 20), "no JSON object"),
    "nested without end": (packed(b"[" * 200_000), "no JSON object"),
    "no object": (packed([1]), "no JSON object"),
    "one name twice": (packed(b'{"a": 1, "a": 2}'), "'a' stands there twice"),
    "no entry": (packed({"a": 3}), "'a' has no shape and data_offsets"),
    "no places": (packed({"a": {"dtype": "F32", "shape": [1]}}, b"1234"), "'a' has no shape and data_offsets"),
    "negative shape": (packed({"a": entry([-1], 0, 4)}, b"1234"), "whole numbers"),
    "shape of truths": (packed({"a": entry([True], 0, 4)}, b"1234"), "whole numbers"),
    "broken offsets": (packed({"a": entry([1], 0, 4.5)}, b"1234"), "whole numbers"),
    "unknown type": (packed({"a": entry([1], 0, 4, "OBJ")}, b"1234"), "of type 'OBJ'; legal: BOOL"),
    "huge shape": (packed({"a": entry([2**40, 2**40], 0, 4)}, b"1234"), "and 4 bytes a value has 4 bytes"),
    "empty and huge": (packed({"a": entry([0, 2**60], 0, 0)}), "has 0 bytes"),
    "empty, its product huge": (packed({"a": entry([0, *[2**31] * 63], 0, 0)}), "has 0 bytes"),
    "many axes": (packed({"a": entry([1] * 65, 0, 4)}, b"1234"), "and 4 bytes a value has 4 bytes"),
    "shape of another size": (packed({"a": entry([2], 0, 4)}, b"1234"), r"shape \[2\] and 4 bytes a value has 4"),
    "overlap": (packed({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"), "'b' begins at byte 0 .* ends at 4"),
    "gap": (packed({"a": entry([1], 4, 8)}, b"12345678"), "'a' begins at byte 4 of the data"),
    "past the end": (packed({"a": entry([1], 0, 4)}, b"123"), "'a' begins|shape|fill"),
    "bytes left over": (packed({"a": entry([1], 0, 4)}, b"12345678"), "fill 4 of 8 bytes"),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_row_48_unsound_safetensors(tmp_path, name):
    """A safetensors file whose header is absurd, or disagrees with itself or the file, is refused before it is used."""
    content, message = BAD_SAFETENSORS[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"bad\.safetensors: not a sound safetensors file.*({message})"):
        check_safetensors(path)
    with pytest.raises(WeightsError, match="get it again"):
        read_safetensors(path)


def test_row_48_too_many_tensors(tmp_path, monkeypatch):
    """A header that names more tensors than any model has is refused."""
    monkeypatch.setattr("seglens.foreign.tensors.MAX_TENSORS", 2)
    save_file({name: torch.zeros(1) for name in "abc"}, tmp_path / "many.safetensors")
    with pytest.raises(WeightsError, match="names 3 tensors; legal are 2"):
        read_safetensors(tmp_path / "many.safetensors")


def test_row_48_sound_safetensors_of_every_kind(tmp_path):
    """A sound file is read as it is: scalars, empty tensors, metadata, every type."""
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    kinds += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    tensors = {str(kind): torch.ones(2, 3).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 5000), "nothing": torch.zeros(0)}
    save_file(tensors, tmp_path / "good.safetensors", {"made": "by hand"})
    read = read_safetensors(tmp_path / "good.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_row_48_weights_that_are_not_finite(tmp_path):
    """Weights with NaN or infinite values are refused, named and counted."""
    weights = {"good": torch.ones(3), "bad": torch.tensor([1.0, float("nan"), float("inf")])}
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"not finite in bad \(2 of 3\); take an earlier checkpoint"):
        read_weights(tmp_path / "w.safetensors")
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        save_file({"a": torch.ones(3).to(kind), "b": torch.tensor([float("nan")]).to(kind)}, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match=r"not finite in b \(1 of 1\)"):
            read_weights(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"none\.pt is not a file"):
        read_weights(tmp_path / "none.pt")
    network = nn.Linear(1, 1)
    with pytest.raises(WeightsError, match=r"mine: .* bias \(1 of 1\)"):
        fit_weights(network, {"weight": torch.ones(1, 1), "bias": torch.tensor([float("nan")])}, "mine")


def test_row_48_dictionary_that_is_not_what_it_says(tmp_path):
    """A dictionary of other shapes than described, or with values that are not finite, is refused before it is made."""
    dictionary = SparseAutoencoder(4, 8, k=2)

    def written(name, tensors, **changes):
        with new_artifact(tmp_path / name, kind="dictionary", inputs={}) as draft:
            draft.save_tensors("dictionary", tensors)
            draft.save_document("dictionary", dictionary.description() | changes)
        return read_artifact(tmp_path / name)

    weights = dictionary.state_dict()
    assert SparseAutoencoder.read(written("good", weights)).hash == dictionary.hash
    huge = written("huge", weights, d_in=10**9, n_latents=10**9)
    with pytest.raises(ValueError, match=r"its description says W_enc \(1000000000, 1000000000\)"):
        SparseAutoencoder.read(huge)
    with pytest.raises(ValueError, match="the dictionary's tensors are"):
        SparseAutoencoder.read(written("short", weights | {"b_dec": torch.zeros(3)}))
    with pytest.raises(WeightsError, match=r"not finite in b_enc \(8 of 8\)"):
        SparseAutoencoder.read(written("nan", weights | {"b_enc": torch.full((8,), float("nan"))}))


def test_row_48_saelens_folder_with_an_unsound_file(tmp_path):
    """A dictionary in SAELens' format passes the same check."""
    folder = export_saelens(SparseAutoencoder(4, 8, k=2), tmp_path / "sae")
    (folder / "sae_weights.safetensors").write_bytes(packed({}, header_bytes=2**60))
    with pytest.raises(ValueError, match=r"cannot be read .*not a sound safetensors file"):
        import_saelens(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale", 0, "metadata.seglens.scale"),
        ("scale", -1.0, "metadata.seglens.scale"),
        ("scale", 1e-45, "metadata.seglens.scale"),
        ("scale", "1", "metadata.seglens.scale"),
        ("scale", None, "metadata.seglens.scale"),
        ("centre", [0.0], "centre has 1 numbers, d_in is 4"),
        ("centre", [0.0, 1e300, 0.0, 0.0], "metadata.seglens.centre.1"),
        ("centre", {"a": 1}, "metadata.seglens.centre"),
        ("k", True, "metadata.seglens.k"),
        ("seed", 2**64, "metadata.seglens.seed"),
        ("hookpoint", ["stage1"], "metadata.seglens.hookpoint"),
    ],
)
def test_row_87_metadata_that_would_break_the_weights(tmp_path, key, value, message):
    """A scale, centre, k, seed or name that is no sound one is refused by its key."""
    folder = export_saelens(SparseAutoencoder(4, 8, k=2), tmp_path / "sae")
    configuration = json.loads((folder / "cfg.json").read_text())
    configuration["metadata"]["seglens"][key] = value
    (folder / "cfg.json").write_text(json.dumps(configuration))
    with pytest.raises(ValueError, match=re.escape(message)):
        import_saelens(folder)


def test_row_87_scale_and_centre_that_leave_the_range_of_float32_together(tmp_path):
    """Numbers that are sound each and give infinite weights together are refused."""
    folder = export_saelens(SparseAutoencoder(4, 8, k=2), tmp_path / "sae")
    configuration = json.loads((folder / "cfg.json").read_text())
    configuration["metadata"]["seglens"] |= {"scale": 1e10, "centre": [1e30] * 4}
    (folder / "cfg.json").write_text(json.dumps(configuration))
    with pytest.raises(ValueError, match="leave the range of float32; export it again"):
        import_saelens(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('"apply_b_dec_to_input": "false"', "apply_b_dec_to_input is 'false', only true and false are"),
        ('"apply_b_dec_to_input": 0', "apply_b_dec_to_input is 0, only true and false are"),
        ('"metadata": [1]', "metadata in cfg.json"),
        ('"metadata": {"seglens": {"centre": []}}', "metadata.seglens.scale in cfg.json: Field required"),
        ('"metadata": {"seglens": 5}', "metadata.seglens in cfg.json"),
        ('"metadata": {"seglens": {"scale": NaN, "centre": []}}', "cfg.json"),
        ('"metadata": ' + "[" * 5000 + "]" * 5000, "cannot be read"),
    ],
)
def test_row_87_configuration_of_another_kind(tmp_path, settings, message):
    """Texts for truths, lists for objects, missing keys and deep JSON are refused, never followed."""
    folder = export_saelens(SparseAutoencoder(4, 8, k=2), tmp_path / "sae")
    configuration = json.loads((folder / "cfg.json").read_text())
    name = settings.split('"')[1]
    text = json.dumps({key: value for key, value in configuration.items() if key != name})
    (folder / "cfg.json").write_text(text[:-1] + ", " + settings + "}")
    with pytest.raises(ValueError, match=re.escape(message)):
        import_saelens(folder)
