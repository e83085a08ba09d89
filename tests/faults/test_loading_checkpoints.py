"""Files of torch.save made to cost more than they hold, or to say two things; each is refused before a tensor is."""

import pickle
import zipfile

import pytest
import torch

from seglens.foreign.pickles import read_pickle
from seglens.foreign.tensors import WeightsError, read_weights

MAX_STEPS = 4000
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0%bX\3\0\0\0cpuJ%btQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(%b%b%b\x89NtR"


def number(value):
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(numel, key=b"0"):
    return STORAGE % (key, numel.to_bytes(4, "little", signed=True))


def tensor(held, offset=0, size=(2,), stride=(1,)):
    return TENSOR % (held, number(offset), numbers(*size) + numbers(*stride))


def file_of(folder, program, records=None):
    """A zip as torch.save writes it."""
    path = folder / "made.pt"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        for name, content in (records or {"0": bytes(8)}).items():
            zipped.writestr(f"a/data/{name}", content)
    return path


def of_key(name, value):
    return b"}X" + len(name).to_bytes(4, "little") + name + value + b"s"


NESTED = b"N" + b"\x85q\0h\0\x86" * 64
BOMBS = {
    "bytearrays": (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R0" * 4 + b"}", "a bytearray from int"),
    "tuples as a key": (b"}" + NESTED + b"Ns", "a key that is no text or small number"),
    "a tuple that holds itself as a key": (b"]q\0h\0\x85a0}h\0\x85Ns", "a key that is no text or small number"),
    "a number of thousands of digits as a key": (
        b"}L" + b"9" * 4000 + b"L\nNs",
        "a key that is no text or small number",
    ),
    "instructions": (b"N0" * (MAX_STEPS // 2) + b"N", f"more than {MAX_STEPS} instructions"),
    "one list as a dict, again and again": (
        b"](" + b"".join(b"J%bN\x86" % i.to_bytes(4, "little") for i in range(500)) + b"eq\1"
        b"ccollections\nOrderedDict\nq\0" + b"h\0h\1\x85R0" * (MAX_STEPS // 500 + 1) + b"0",
        f"more than {MAX_STEPS} pairs",
    ),
    "one text as bytes, again and again": (
        b"X\x10\x27\0\0" + b"x" * 10_000 + b"q\0" + b"cbuiltins\nbytearray\nh\0\x85R0" * 100,
        "unfolds to more than twice its size",
    ),
    "many arguments": (
        b"(" + b"N" * 17 + b"tq\0ctorch\nSize\nh\0R0",
        "wants to call 'torch.Size'",
    ),
    "a huge storage": (of_key(b"w", tensor(storage(2**31 - 1))), f"needs {4 * (2**31 - 1)} bytes, 8 are there"),
    "a storage of a negative size": (of_key(b"w", tensor(storage(-1))), "a storage without type, name and size"),
    "a storage by two sizes": (
        of_key(b"v", tensor(storage(2))) + b"0" + of_key(b"w", tensor(storage(1))),
        "by two sizes or types",
    ),
    "beyond its storage": (of_key(b"w", tensor(storage(2), size=(3,))), "w are larger than the file"),
    "from behind its storage": (of_key(b"w", tensor(storage(2), offset=2)), "w are larger than the file"),
    "a negative offset": (of_key(b"w", tensor(storage(2), offset=-1)), "w are larger than the file"),
    "a negative stride": (of_key(b"w", tensor(storage(2), stride=(-1,))), "w are larger than the file"),
    "sizes without strides": (of_key(b"w", tensor(storage(2), stride=())), "w are larger than the file"),
    "empty and huge": (
        of_key(b"w", tensor(storage(2), size=(0, 2**61, 2**61), stride=(0, 0, 0))),
        "w are larger than the file",
    ),
    "one storage by many tensors": (
        b"}(" + b"".join(b"J" + i.to_bytes(4, "little") + b"h\1" for i in range(900)) + b"u",
        "more than 16 times the file's bytes",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_row_85_checkpoint_that_costs_more_than_it_holds(tmp_path, monkeypatch, name):
    """Its program is walked before a tensor is made: memory, depth and time are bounded, and torch never sees it."""
    program, message = BOMBS[name]
    records = None
    if name == "one storage by many tensors":
        program = tensor(storage(2**14), size=(2**14,)) + b"q\x010" + program
        records = {"0": bytes(2**16)}
    monkeypatch.setattr("seglens.foreign.torch_files.MAX_STEPS", MAX_STEPS)
    seen = []
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: seen.append(arguments) or {})
    with pytest.raises(WeightsError, match=rf"made\.pt: .*{message}") as caught:
        read_weights(file_of(tmp_path, program, records))
    assert not seen
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_row_85_refusal_gives_no_advice_to_switch_safety_off(tmp_path, zipped):
    """The refusal of a file that wants to run code says nothing of how to let it."""
    torch.save({"w": pickle.Pickler}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    torch.save({"w": pytest.approx(1)}, tmp_path / "call.pt", _use_new_zipfile_serialization=zipped)
    for name in ("evil.pt", "call.pt"):
        with pytest.raises(WeightsError) as caught:
            read_weights(tmp_path / name)
        assert not any(word in str(caught.value) for word in ("weights_only", "safe_globals", "trust"))


def test_row_85_records_that_are_not_there_packed_or_twice(tmp_path):
    """Records of a zip that are packed, missing, damaged or there twice are refused."""
    good = of_key(b"w", tensor(storage(2)))
    assert read_weights(file_of(tmp_path, good))["w"].tolist() == [0, 0]
    with pytest.raises(WeightsError, match="needs 8 bytes, 0 are there"):
        read_weights(file_of(tmp_path, good, {"1": bytes(8)}))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "made.pt", "a") as zipped:
        zipped.writestr("a/data/1", bytes(8))
    with pytest.raises(WeightsError, match="two records of one name"):
        read_weights(tmp_path / "made.pt")
    path = file_of(tmp_path, good, {"0": b"\1" * 8})
    path.write_bytes(path.read_bytes().replace(b"\1" * 8, b"\1" * 7 + b"\0"))
    with pytest.raises(WeightsError, match="Bad CRC-32"):
        read_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("a/data.pkl", b"}.")
    with pytest.raises(WeightsError, match="its records are packed"):
        read_weights(path)


def test_row_85_old_format_that_ends_early(tmp_path):
    """A file of the old format that announces more bytes than it holds, or is cut anywhere, is refused."""
    torch.save({"w": torch.ones(5)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pt: cannot be read as plain weights"):
            read_weights(tmp_path / "cut.pt")


def test_row_86_keys_of_one_name(tmp_path):
    """Keys 0 and "0", or one key twice, are refused with both named; so is a key twice in a pickle of arrays."""
    torch.save({0: torch.ones(1), "0": torch.zeros(1)}, tmp_path / "both.pt")
    with pytest.raises(WeightsError, match="the keys 0 and '0', of one name; keep one"):
        read_weights(tmp_path / "both.pt")
    twice = of_key(b"w", tensor(storage(2))) + b"X\1\0\0\0wNs"
    with pytest.raises(WeightsError, match="the key 'w' stands there twice"):
        read_weights(file_of(tmp_path, twice))
    (tmp_path / "twice.pkl").write_bytes(b"\x80\x02}X\1\0\0\0wK\1sX\1\0\0\0wK\2s.")
    with pytest.raises(ValueError, match="the key 'w' stands there twice"):
        read_pickle(tmp_path / "twice.pkl")


def test_row_86_complex_values_that_are_not_finite(tmp_path):
    """NaN and infinity are found in complex tensors too, in either part."""
    values = torch.tensor([1 + 1j, complex(0, float("nan")), complex(float("inf"), 0)])
    torch.save({"w": values}, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match=r"not finite in w \(2 of 3\)"):
        read_weights(tmp_path / "c.pt")
