"""Fuzzing of torch.save's files: the programs in them, and the records around."""

import io
import tempfile
import zipfile
from pathlib import Path


def read(content: bytes) -> None:
    """`read_torch`; the first byte says whether the rest is the program of a zip, or a whole file."""
    from seglens.foreign.tensors import WeightsError, read_weights

    held = _zipped_program(content[1:]) if content[:1] == b"\1" else content[1:]
    with tempfile.NamedTemporaryFile(prefix="seglens-fuzz-", suffix=".pt") as file:
        file.write(held)
        file.flush()
        try:
            weights = read_weights(Path(file.name))
        except WeightsError as error:
            assert file.name in str(error)
            assert len(str(error)) < 10_000
            assert "weights_only" not in str(error)
            return
    assert all(tensor.numel() * tensor.element_size() <= len(held) for tensor in weights.values())


def _zipped_program(program: bytes) -> bytes:
    """A file as torch.save writes it, with this program over four storages of 0, 8, 16 and 24 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("a/data.pkl", program)
        for key in range(4):
            zipped.writestr(f"a/data/{key}", bytes(8 * key))
    return file.getvalue()


def seeds() -> list[bytes]:
    """Files of torch.save, both formats, and programs."""
    import torch

    linear = torch.arange(4, dtype=torch.int16).reshape(2, 2)
    plain = {"e": torch.zeros(0), "w": torch.ones(2), "t": linear.t().clone().double()[:1], "b": torch.ones(3).double()}
    beside = {"state_dict": torch.nn.Linear(1, 2).state_dict(), "epoch": 3, "size": torch.Size([2]), "cx": 1j, "d": {1}}
    parameters = {"p": torch.nn.Parameter(torch.ones(2)), "c": torch.ones(2, dtype=torch.complex64), "s": linear[:, 0]}
    made = []
    for content in (plain, beside, parameters):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            made.append(b"\0" + file.getvalue())
            if zipped:
                with zipfile.ZipFile(file) as held:
                    made.append(b"\1" + held.read("archive/data.pkl"))
    return made
