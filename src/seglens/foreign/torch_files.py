"""Weights out of what ``torch.save`` wrote, new format (a zip) or old, by an interpreter that can call nothing.

Torch's own reader runs a table of allowed functions with whatever arguments the file gives. Here none of them is run:
a tensor is a note of which bytes it views, storages are compared with what the file holds, and only those that the
state dict names are read.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from seglens.foreign.pickles import FUNCTIONS, Machine, Name, with_entries
from seglens.foreign.tensors import WeightsError

WHERE_WEIGHTS_ARE = ("state_dict", "model_state_dict", "network_weights", "model")
MAX_STEPS = 1_000_000
"""Instructions; a tensor takes about thirty."""
LONG_PROGRAM = 8
"""A long program may have so many times `MAX_STEPS`, one for two of its bytes at most. In a training's log of NumPy's
numbers an instruction takes three to four."""
MAX_PROGRAM_BYTES = 2**26
MAX_DIMENSIONS = 64
MAX_TIMES = 16
"""Bytes of all tensors together, each for itself, for a byte of the file."""
MAGIC = 0x1950A86A20F9469CFC6C
"""The first value in a file of the old format."""
_STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_BY_NAME = {
    f"torch.{name}": kind
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if isinstance(kind := getattr(torch, name, None), torch.dtype)
} | {str(kind): kind for kind in _STORAGES.values()}
Find = Callable[["_Storage"], bytearray]
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes that a tensor may view; ``kind`` is None for a type that is not read."""

    key: str
    kind: torch.dtype | None
    size: int
    start: int = 0

    @property
    def n_bytes(self) -> int:
        return self.size * (self.kind.itemsize if self.kind else 1)


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the file describes it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    kind: Any = None


@dataclass(frozen=True, slots=True)
class _Other:
    """A thing that may stand beside the weights and is not looked at."""

    name: str


def read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``: dense tensors on the CPU, shared storages shared.

    Args:
        path: the file; the state dict is all of it, or stands under "state_dict", "model" or the like.

    Raises:
        ArrayError: it wants to call what no state dict needs.
        ValueError: it claims more than it holds, or is damaged; that raises other errors too, by where the damage is.
        WeightsError: it has no state dict of dense tensors within the file's size, or two keys of one name.
    """
    return read_torch_beside(path, {})[0]


def read_torch_beside(path: Path, wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict as of `read_torch`, and plain values that stand beside it.

    Args:
        path: the file.
        wanted: name to the keys that lead to a value, from the outermost.

    Returns:
        The state dict, and the wanted values by name: arrays, numbers, texts, and tuples, lists and dicts of them. What
        is not there is not in it.

    Raises:
        ArrayError: as `read_torch`; also a wanted value that is not plain.
        ValueError: as `read_torch`.
        WeightsError: as `read_torch`.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
        file.seek(0)
        with _of_zip(path, file) if zipped else _of_old(path, file) as (left, find):
            content = left
            for key in WHERE_WEIGHTS_ARE:
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
            tensors = _tensors(str(path), content, find, path.stat().st_size)
    machine = Machine(str(path), 0)
    beside = {}
    for name, keys in wanted.items():
        value = left
        for key in keys:
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT:
            beside[name] = machine.plain(value)
    return tensors, beside


class _TorchMachine(Machine):
    """The interpreter with what torch.save writes beyond NumPy's arrays: storages, tensors, ordered dicts."""

    what: ClassVar[str] = "state dict"

    def __init__(self, origin: str, n_bytes: int):
        super().__init__(origin, n_bytes)
        self.max_steps = self._spare_pairs = max(MAX_STEPS, min(n_bytes // 2, LONG_PROGRAM * MAX_STEPS))
        self.functions = {**FUNCTIONS, **_TORCH_FUNCTIONS}
        self.storages: dict[str, _Storage] = {}

    def ordered(self, pairs: Any) -> dict[Any, Any]:
        """A dict of pairs; one list may not become a dict again and again."""
        self._spare_pairs -= len(pairs)
        if self._spare_pairs < 0:
            raise ValueError(f"more than {self.max_steps} pairs")
        return with_entries({}, [part for key, value in pairs for part in (key, value)])

    def do(self, name: str, argument: Any, position: int) -> None:
        """One instruction."""
        if name == "BINPERSID":
            self.stack.append(self._storage(self.pop()))
        elif name == "NEWOBJ":
            arguments, kind = self.pop(), self.pop()
            self.stack.append(self.called(kind, arguments))
        elif name == "EMPTY_SET":
            self.stack.append([])
        elif name == "ADDITEMS":
            self.to_mark()
        else:
            super().do(name, argument, position)

    def build(self, state: Any) -> None:
        """Set the state of the thing on top; of a dict it is what torch notes beside a state dict."""
        if not isinstance(self.stack[-1], dict | _Other):
            super().build(state)

    def _storage(self, note: Any) -> _Storage:
        kind, name, key, _place, size, *view = note if isinstance(note, tuple) and len(note) < 7 else ()
        if kind != "storage" or not isinstance(name, Name) or not isinstance(key, str) or not _is_count(size):
            raise ValueError("a storage without type, name and size")
        dtype = _STORAGES.get(name.text.rpartition(".")[2]) if name.text.startswith("torch.") else None
        storage = _Storage(key, dtype, size)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {key[:80]!r} by two sizes or types")
        if view and view[0] is not None:
            _key, start, length = view[0]
            if not (_is_count(start) and _is_count(length) and start + length <= size):
                raise ValueError(f"a view beyond the storage {key[:80]!r}")
            return _Storage(key, dtype, size, start)
        return storage


@contextmanager
def _of_zip(path: Path, file: io.BufferedReader) -> Iterator[tuple[Any, Find]]:
    with zipfile.ZipFile(file) as zipped:
        records = {entry.filename: entry for entry in zipped.infolist()}
        if len(records) < len(zipped.infolist()):
            raise ValueError("two records of one name")
        unpacked, n_bytes = sum(entry.file_size for entry in records.values()), path.stat().st_size
        if unpacked > n_bytes:  # torch stores them as they are, so these are a bomb
            raise ValueError(f"its records unfold to {unpacked} bytes of {n_bytes}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in records.values()):
            raise ValueError("its records are packed")
        folder = next(iter(records), "").partition("/")[0]
        program = records.get(f"{folder}/data.pkl")
        if program is None or program.file_size > MAX_PROGRAM_BYTES:
            raise ValueError(f"no data.pkl of at most {MAX_PROGRAM_BYTES} bytes in it")
        order = records.get(f"{folder}/byteorder")
        swapped = order is not None and order.file_size == 3 and zipped.read(order) == b"big"
        machine = _TorchMachine(str(path), program.file_size)
        content = machine.run(io.BytesIO(zipped.read(program)))
        for storage in machine.storages.values():
            record = records.get(f"{folder}/data/{storage.key}")
            there = record.file_size if record else 0
            if storage.kind is not None and there != storage.n_bytes:
                raise ValueError(f"the storage {storage.key[:80]!r} needs {storage.n_bytes} bytes, {there} are there")

        def find(storage: _Storage) -> bytearray:
            raw = bytearray(zipped.read(f"{folder}/data/{storage.key}"))
            if not swapped or storage.kind is None:
                return raw
            return _reversed(raw, storage.kind.itemsize // (2 if storage.kind.is_complex else 1))

        yield content, find


@contextmanager
def _of_old(path: Path, file: io.BufferedReader) -> Iterator[tuple[Any, Find]]:
    n_bytes = path.stat().st_size
    machine = _TorchMachine(str(path), n_bytes)
    if machine.run(file) != MAGIC:
        raise ValueError("not what torch.save writes")
    machine.run(file)  # the format's version
    machine.run(file)  # the machine it was written on; the bytes are little-endian whatever it says
    content, keys = machine.run(file), machine.run(file)
    places: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else ():
        storage = machine.storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise ValueError("a storage that no tensor names, or one that stands there twice")
        (size,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell()
        if storage.kind is None:
            raise ValueError(f"the storage {key[:80]!r} is of a type that is not read")
        if size != storage.size or storage.n_bytes > n_bytes - file.tell():
            raise ValueError(f"the storage {key[:80]!r} needs {storage.n_bytes} bytes, the file ends before")
        file.seek(storage.n_bytes, io.SEEK_CUR)

    def find(storage: _Storage) -> bytearray:
        file.seek(places[storage.key])
        return bytearray(file.read(storage.n_bytes))

    yield content, find


def _tensors(origin: str, content: Any, find: Find, n_bytes: int) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(value, _View | _Other) for value in content.values()):
        raise WeightsError(f"{origin}: holds no state dict; save network.state_dict() alone")
    names: dict[str, Any] = {}
    for name in content:
        if str(name) in names:
            raise WeightsError(f"{origin}: holds the keys {names[str(name)]!r} and {name!r}, of one name; keep one")
        names[str(name)] = name
    views = {name: content[key] for name, key in names.items()}
    # a view can claim any shape over a few bytes, and would be unrolled by whoever computes with it
    sizes = {name: _n_bytes(view) for name, view in views.items()}
    odd = [name[:80] for name, size in sizes.items() if size is None or size > n_bytes]
    if odd:
        raise WeightsError(f"{origin}: {', '.join(odd[:8])} are larger than the file, sparse or empty; save them dense")
    if sum(size or 0 for size in sizes.values()) > MAX_TIMES * n_bytes:
        raise WeightsError(f"{origin}: its tensors hold more than {MAX_TIMES} times the file's bytes; save each once")
    opened: dict[str, torch.UntypedStorage] = {}
    made = {}
    for name, view in views.items():
        key = view.storage.key
        if key not in opened:
            raw = find(view.storage) if view.storage.size else bytearray()
            opened[key] = torch.frombuffer(raw, dtype=torch.uint8).untyped_storage() if raw else torch.UntypedStorage(0)
        kind = _kind(view)
        made[name] = torch.empty(0, dtype=kind).set_(
            opened[key], view.storage.start + view.offset, view.size, view.stride
        )
    return made


def _n_bytes(view: _View | _Other) -> int | None:
    """Bytes of a tensor if each of its values had its own; None for one that is not dense, or beyond its storage."""
    if not isinstance(view, _View) or not isinstance(view.storage, _Storage) or _kind(view) is None:
        return None
    sizes, strides = view.size, view.stride
    if (
        not isinstance(sizes, tuple)
        or not isinstance(strides, tuple)
        or not len(sizes) == len(strides) < MAX_DIMENSIONS
    ):
        return None
    if not all(map(_is_count, (view.offset, *sizes, *strides))):
        return None
    item = _kind(view).itemsize
    last = view.storage.start + view.offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    if math.prod(max(n, 1) for n in sizes) * item >= 2**62:
        return None
    if 0 not in sizes and last * item > view.storage.n_bytes:
        return None
    return math.prod(sizes) * item


def _kind(view: _View) -> Any:
    """A tensor's type; None for one that is not read."""
    if view.kind is None:
        return view.storage.kind
    return _BY_NAME.get(view.kind.text) if isinstance(view.kind, Name) else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _reversed(raw: bytearray, item: int) -> bytearray:
    """The bytes of each value of ``item`` bytes in the other order."""
    turned = bytearray(len(raw))
    for place in range(item):
        turned[place::item] = raw[item - 1 - place :: item]
    return turned


def _ordered(machine: _TorchMachine, pairs: Any = ()) -> dict[Any, Any]:
    return machine.ordered(pairs)


def _tensor(_machine: Machine, storage: Any, offset: Any, size: Any, stride: Any, *_more: Any) -> _View:
    return _View(storage, offset, size, stride)


def _typed_tensor(_machine: Machine, *arguments: Any) -> _View:
    storage, offset, size, stride, _grad, _hooks, kind, *_more = arguments
    return _View(storage, offset, size, stride, kind)


def _first(_machine: Machine, value: Any = (), *_more: Any) -> Any:
    return value


def _attributed(machine: Machine, function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    return machine.called(function, arguments)


def _bytearray(machine: Machine, content: Any = b"", *_coding: Any) -> bytes | bytearray:
    if not isinstance(content, str | bytes | bytearray):
        raise ValueError(f"a bytearray from {type(content).__name__}")
    return machine.in_bytes(content)


def _beside(name: str) -> Callable[..., _Other]:
    def made(_machine: Machine, *_arguments: Any) -> _Other:
        return _Other(name)

    return made


_TORCH_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _attributed,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _first,
    "builtins.bytearray": _bytearray,
    "__builtin__.bytearray": _bytearray,
    **{
        name: _beside(name)
        for name in (
            *("collections.Counter", "torch.device", "torch.serialization._get_layout"),
            *("builtins.set", "builtins.complex", "__builtin__.set", "__builtin__.complex"),
            "torch._utils._rebuild_sparse_tensor",
            "torch._utils._rebuild_qtensor",
            "torch._utils._rebuild_nested_tensor",
            "torch._utils._rebuild_meta_tensor_no_storage",
            "torch._utils._rebuild_wrapper_subclass",
            "torch._utils._rebuild_device_tensor_from_numpy",
            "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        )
    },
}
