"""Arrays out of a pickle that somebody else made, without letting it do what it says.

A pickle is a program. Python's own unpickler imports and calls whatever that program names, and a table of allowed
names only narrows this. Here the program is read by an interpreter of our own, which has no instruction to import or to
call anything: a name is a piece of text, and the few texts by which NumPy's arrays are put together mean functions of
this file. TransMorph (arXiv 2111.10480) ships its IXI brains as such files: a pair of arrays, image and labels.
"""

import io
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seglens.foreign.arrays import ArrayError, check_claim

MAX_BYTES = 2 * 2**30
MAX_STEPS = 100_000
"""Instructions; a pair of arrays takes about a hundred."""
MAX_OBJECTS = 10_000
"""Numbers, texts and arrays in what is returned."""
MAX_DEPTH = 20
MAX_ARGUMENTS = 16
_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_PUSHES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING"),
    *("STRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict},
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True)
class Name:
    """A name in the program; never looked up anywhere."""

    text: str


@dataclass
class _Type:
    """A NumPy type being put together: its code, and the byte order that follows later."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code if self.code[0] in "<>|=" else f"{self.order}{self.code}")


@dataclass
class _Array:
    """An array being put together: empty until its state comes."""

    values: NDArray[Any] | None = None


def read_pickle(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read pickles of NumPy arrays; nothing in them is run.

    Args:
        path: the file, protocol 0 to 5.
        max_bytes: the most that the file may hold.

    Returns:
        Arrays, numbers, texts, and tuples, lists and dicts of them.

    Raises:
        ArrayError: anything else in it, or a file that is damaged.
    """
    n_bytes = path.stat().st_size
    if n_bytes > max_bytes:
        raise ArrayError(f"{path}: holds {n_bytes} bytes, over the cap of {max_bytes}; cut it into parts")
    machine = Machine(str(path), n_bytes)
    try:
        return machine.plain(machine.run(io.BytesIO(path.read_bytes())))
    except ArrayError:
        raise
    except Exception as fault:  # a damaged program fails in as many ways as there are instructions
        reason = (str(fault) or type(fault).__name__).splitlines()[0][:200]
        raise ArrayError(f"{path}: no sound pickle of arrays ({reason}); get it again") from None


class Machine:
    """The interpreter: a stack, a memory, and no way out.

    Args:
        origin: what the program is called in a message.
        n_bytes: its length.

    Attributes:
        what: its programs put together, for a message.
        max_steps: instructions that a program may have.
        functions: what the names mean that a program may call.
    """

    what: ClassVar[str] = "NumPy array"

    def __init__(self, origin: str, n_bytes: int):
        self.origin = origin
        self.max_steps = MAX_STEPS
        self.functions: Mapping[str, Callable[..., Any]] = FUNCTIONS
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.spare_bytes = 2 * n_bytes

    def run(self, program: io.BytesIO | io.BufferedReader) -> Any:
        """Run the program and return what it leaves; the stream stands behind it then."""
        self.stack, self.memory = [], {}
        for step, (opcode, argument, position) in enumerate(pickletools.genops(program)):
            if step >= self.max_steps:
                raise ArrayError(f"{self.origin}: more than {self.max_steps} instructions; this is no {self.what}")
            if opcode.name == "STOP":
                if len(self.stack) != 1:
                    raise ArrayError(f"{self.origin}: leaves {len(self.stack)} things instead of one; get it again")
                return self.stack[0]
            self.do(opcode.name, argument, position or 0)
        raise ArrayError(f"{self.origin}: ends in the middle; get it again")

    def in_bytes(self, raw: Any) -> bytes | bytearray:
        """Bytes that stand in the program as bytes or as text; one text may not become bytes again and again."""
        if isinstance(raw, str):
            self.spare_bytes -= len(raw)
            if self.spare_bytes < 0:
                raise ArrayError(f"{self.origin}: unfolds to more than twice its size; this is no {self.what}")
            return raw.encode("latin-1")
        if not isinstance(raw, bytes | bytearray):
            raise ValueError(f"an array from {type(raw).__name__}")
        return raw

    def filled(self, raw: Any, kind: Any, shape: Any, *, column_first: bool) -> NDArray[Any]:
        """An array of given bytes: a view, so that several over the same bytes cost no more than the bytes."""
        if not isinstance(kind, _Type):
            raise ValueError(f"an array of {type(kind).__name__}")
        content = self.in_bytes(raw)
        check_claim(self.origin, shape, kind.dtype, len(content))
        return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if column_first else "C")

    def do(self, name: str, argument: Any, position: int) -> None:
        """One instruction."""
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _PUSHES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "TUPLE":
            stack.append(tuple(self.to_mark()))
        elif name in _TUPLES:
            n = _TUPLES[name]
            stack.append(tuple(self.pop() for _ in range(n))[::-1])
        elif name == "LIST":
            stack.append(self.to_mark())
        elif name == "DICT":
            stack.append(with_entries({}, self.to_mark()))
        elif name == "APPEND":
            value = self.pop()
            self._top(list).append(value)
        elif name == "APPENDS":
            values = self.to_mark()
            self._top(list).extend(values)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            with_entries(self._top(dict), [key, value])
        elif name == "SETITEMS":
            entries = self.to_mark()
            with_entries(self._top(dict), entries)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[int(argument)])
        elif name == "POP":
            self.pop()
        elif name == "GLOBAL":
            stack.append(Name(str(argument).replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            if not isinstance(attribute, str) or not isinstance(module, str):
                raise ValueError("a name that is no text")
            stack.append(Name(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            stack.append(self.called(function, arguments))
        elif name == "BUILD":
            state = self.pop()
            self.build(state)
        else:
            raise ArrayError(f"{self.origin}: instruction {name} at byte {position}; {self.what}s do not need it")

    def pop(self) -> Any:
        """Take the value on top."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is due")
        return value

    def to_mark(self) -> list[Any]:
        """Take the values down to the last mark, and the mark."""
        # from the top: costs no more than the values that are taken, however deep the stack
        start = next(place for place in range(len(self.stack) - 1, -1, -1) if self.stack[place] is _MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"{type(self.stack[-1]).__name__} where a {kind.__name__} is due")
        return self.stack[-1]

    def called(self, function: Any, arguments: Any) -> Any:
        """Do what a call means."""
        known = self.functions.get(function.text) if isinstance(function, Name) else None
        if known is None or not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            wanted = function.text if isinstance(function, Name) else type(function).__name__
            raise ArrayError(
                f"{self.origin}: wants to call {wanted[:80]!r}, which is not a part of a {self.what}; "
                "do not open this file with Python's own pickle: it may run code"
            )
        return known(self, *arguments)

    def build(self, state: Any) -> None:
        """Set the state of the thing on top."""
        target = self.stack[-1]
        if isinstance(target, _Type):
            order = state[1]
            if order not in ("<", ">", "|", "="):
                raise ValueError(f"byte order {_shown(order)}")
            target.order = order
        elif isinstance(target, _Array) and target.values is None:
            _version, shape, kind, column_first, raw = state
            target.values = self.filled(raw, kind, shape, column_first=bool(column_first))
        else:
            raise ArrayError(f"{self.origin}: sets the state of {type(target).__name__}; only arrays have one here")

    def plain(self, value: Any) -> Any:
        """Copy what a program left: arrays, numbers, texts, and tuples, lists and dicts of them."""
        budget = [MAX_OBJECTS]

        def plain(part: Any, depth: int) -> Any:
            budget[0] -= 1
            if budget[0] < 0 or depth > MAX_DEPTH:
                raise ArrayError(f"{self.origin}: more than {MAX_OBJECTS} values or {MAX_DEPTH} levels; save arrays")
            if isinstance(part, _Array) and part.values is not None:
                return part.values
            if isinstance(part, tuple | list):
                return type(part)(plain(item, depth + 1) for item in part)
            if isinstance(part, dict) and all(map(_is_scalar, part)):
                return {key: plain(item, depth + 1) for key, item in part.items()}
            if _is_scalar(part):
                return part
            raise ArrayError(f"{self.origin}: holds a {type(part).__name__.strip('_')}; save arrays and numbers alone")

        return plain(value, 0)


def with_entries(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """A dict with keys and values in turn; deep tuples, and numbers of a million digits, would be long looked up."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not _is_scalar(key) or (isinstance(key, int) and abs(key) >= 2**64):
            raise ValueError("a key that is no text or small number")
        if key in target:
            raise ValueError(f"the key {str(key)[:80]!r} stands there twice")
        target[key] = value
    return target


def _shown(value: Any) -> str:
    """For a message; the text of a tuple of tuples of tuples ... could be longer than any memory."""
    return repr(value[:40]) if isinstance(value, str | bytes) else type(value).__name__.strip("_")


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | bytes | np.generic)


def _reconstructed(_machine: Machine, kind: Any, _shape: Any, _code: Any) -> _Array:
    if kind != Name("numpy.ndarray"):
        raise ValueError(f"an array of the kind {_shown(kind)}")
    return _Array()


def _type(_machine: Machine, code: Any, *_flags: Any) -> _Type:
    if not isinstance(code, str) or not _TYPE.fullmatch(code):
        raise ValueError(f"values of the type {_shown(code)}; only numbers are read")
    return _Type(code)


def _encoded(machine: Machine, text: Any, coding: Any) -> bytes | bytearray:
    if coding not in ("latin1", "latin-1"):
        raise ValueError(f"text in the coding {_shown(coding)}")
    return machine.in_bytes(text)


def _no_bytes(_machine: Machine) -> bytes:
    return b""


def _from_buffer(machine: Machine, raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _Array(machine.filled(raw, kind, shape, column_first=order == "F"))


def _scalar(machine: Machine, kind: Any, raw: Any) -> Any:
    return machine.filled(raw, kind, (), column_first=False)[()]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _reconstructed,
    "numpy._core.multiarray._reconstruct": _reconstructed,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _type,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
}
