"""What torch.save writes is read as torch.load reads it."""

import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from seglens.foreign.arrays import ArrayError
from seglens.foreign.torch_files import read_torch, read_torch_beside


def contents():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    whole = torch.arange(24.0).reshape(4, 6)
    noted = torch.ones(2)
    noted.note = "an attribute"
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64, torch.bool)
    views = {
        **{str(kind): torch.ones(2, 3).to(kind) for kind in kinds},
        "complex": torch.tensor([1 + 2j]),
        "turned": whole.t(),
        "part": whole[1:, ::2],
        "whole": whole,
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(3),
        "parameter": nn.Parameter(torch.ones(2)),
        "spread": torch.ones(2, 1).expand(2, 3),
        "noted": noted,
    }
    beside = {"epoch": 3, "device": torch.device("cpu"), "size": torch.Size([1]), "set": {1}, "rng": b"\xff\0"}
    return {
        "network": network.state_dict(),
        "views": OrderedDict(views),
        "beside": {"optimizer": optimizer.state_dict(), "model": network.state_dict()} | beside,
        "new kinds": {"a": torch.ones(3).to(torch.uint16), "b": torch.ones(3).to(torch.float8_e4m3fn)},
        "nothing": {},
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", contents())
def test_as_torch_reads_it(tmp_path, name, zipped):
    if name == "new kinds" and not zipped:
        pytest.skip("torch cannot write them so")
    path = tmp_path / "w.pt"
    torch.save(contents()[name], path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    expected = expected.get("model", expected)
    for protocol in (2, 3, 4, 5):
        torch.save(contents()[name], path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        read = read_torch(path)
        assert list(read) == list(expected)
        for key, tensor in expected.items():
            assert (read[key].dtype, read[key].stride()) == (tensor.dtype, tensor.stride())
            assert read[key].tolist() == tensor.tolist()


def test_a_long_log_of_numbers_may_stand_beside_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("seglens.foreign.torch_files.MAX_STEPS", 1000)
    log = [np.float64(number / 7) for number in range(200)]
    torch.save({"network_weights": {"w": torch.ones(2)}, "logging": {"dice": log}, "epoch": 7}, tmp_path / "w.pt")
    weights, beside = read_torch_beside(tmp_path / "w.pt", {"epoch": ("epoch",), "none": ("logging", "loss")})
    assert weights["w"].tolist() == [1, 1] and beside == {"epoch": 7}
    assert read_torch_beside(tmp_path / "w.pt", {"dice": ("logging", "dice")})[1] == {"dice": log}
    with pytest.raises(ArrayError, match=r"holds a Storage|holds a View"):
        read_torch_beside(tmp_path / "w.pt", {"weights": ("network_weights",)})


def test_shared_storages_stay_shared(tmp_path):
    whole = torch.arange(6.0)
    torch.save({"whole": whole, "part": whole[2:]}, tmp_path / "w.pt")
    read = read_torch(tmp_path / "w.pt")
    read["whole"][3] = 9
    assert read["part"].tolist() == [2, 9, 4, 5]


@pytest.mark.parametrize("kind", [torch.float32, torch.int16, torch.complex64, torch.uint8])
def test_bytes_of_a_big_endian_machine(tmp_path, kind):
    values = torch.arange(1, 4).to(kind)
    torch.save({"w": values}, tmp_path / "little.pt")
    item = kind.itemsize // (2 if kind.is_complex else 1)
    with zipfile.ZipFile(tmp_path / "little.pt") as little, zipfile.ZipFile(tmp_path / "big.pt", "w") as big:
        for entry in little.infolist():
            content = little.read(entry)
            if entry.filename.endswith("/data/0"):
                content = b"".join(content[at : at + item][::-1] for at in range(0, len(content), item))
            big.writestr(entry.filename, b"big" if entry.filename.endswith("/byteorder") else content)
    assert torch.equal(read_torch(tmp_path / "big.pt")["w"], values)
