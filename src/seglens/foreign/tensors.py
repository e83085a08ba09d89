"""Weights that others made: safetensors whose header is checked first, and torch files without code."""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_HEADER_BYTES = 16 * 2**20
"""Of a real model's file the header is a few hundred kB."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 64
EMPTY_SIZE = 2**31
"""Of a tensor without values no size may be larger."""
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


class WeightsError(ValueError):
    """A file of weights that cannot be used."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory.

    Raises:
        WeightsError: as `check_safetensors`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as fault:  # KeyError: a type that this torch does not have
        raise _unsound(path, str(fault)) from None


def check_safetensors(path: Path) -> None:
    """Check the header of a safetensors file against the file, before any tensor is made.

    The header must be of bounded size, name each tensor once, and give types, shapes and places that agree with one
    another and fill the file without gap or overlap.

    Raises:
        WeightsError: the first thing that is wrong.
    """
    with path.open("rb") as file:
        n_bytes = path.stat().st_size
        first = file.read(8)
        if len(first) < 8:
            raise _unsound(path, f"it holds {n_bytes} bytes")
        (header_bytes,) = struct.unpack("<Q", first)
        if header_bytes > min(MAX_HEADER_BYTES, n_bytes - 8):
            raise _unsound(
                path, f"its header is said to be {header_bytes} bytes of {n_bytes}; legal are {MAX_HEADER_BYTES}"
            )
        text = file.read(header_bytes)
    try:
        header = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as fault:
        raise _unsound(path, f"its header is no JSON object with a name once ({str(fault)[:200]})") from None
    if not isinstance(header, dict):
        raise _unsound(path, "its header is no JSON object")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise _unsound(path, f"it names {len(entries)} tensors; legal are {MAX_TENSORS}")
    _check_places(path, entries, n_bytes - 8 - header_bytes)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights from someone else's ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``; no code in the file is run.

    Raises:
        WeightsError: another kind of file, one that is damaged, or one that needs code to be run; tensors that are
            larger than the file or not finite.
    """
    if path.suffix in {*TORCH_SUFFIXES, ".safetensors"} and not path.is_file():
        raise WeightsError(f"{path} is not a file; give a file of weights")
    if path.suffix == ".safetensors":
        weights = read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        weights, _ = _from_torch(path, {})
    else:
        raise WeightsError(f"{path}: weights are read from .safetensors, .pt, .pth or .bin")
    refuse_non_finite(weights, str(path))
    return weights


def read_checkpoint(path: Path, wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights from a torch file, and plain values that stand beside them; no code in the file is run.

    Args:
        path: a ``.pt``, ``.pth`` or ``.bin``.
        wanted: name to the keys that lead to a value, from the outermost.

    Returns:
        The weights, and those wanted values that are there.

    Raises:
        WeightsError: as `read_weights`, or a wanted value that is not of numbers and texts.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give a checkpoint that torch.save wrote")
    weights, beside = _from_torch(path, wanted)
    refuse_non_finite(weights, str(path))
    return weights, beside


def refuse_non_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights with NaN or infinite values, which would spread to every result.

    Raises:
        WeightsError: the tensors are named, with counts.
    """
    bad = {name: _n_bad(tensor) for name, tensor in tensors.items()}
    named = [f"{name} ({count} of {tensors[name].numel()})" for name, count in bad.items() if count]
    if named:
        shown = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
        raise WeightsError(f"{origin}: values that are not finite in {shown}; take an earlier checkpoint")


def _n_bad(tensor: Tensor) -> int:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return 0
    known = tensor.float() if tensor.element_size() == 1 else tensor  # torch does not look into floats of a byte
    return int((~known.isfinite()).sum())


def _check_places(path: Path, entries: Mapping[str, Any], data_bytes: int) -> None:
    places = []
    for name, entry in entries.items():
        own = entry if isinstance(entry, dict) else {}
        shape, offsets = _sizes(own.get("shape")), _sizes(own.get("data_offsets"))
        if shape is None or offsets is None or len(offsets) != 2:
            raise _unsound(path, f"its entry {name[:80]!r} has no shape and data_offsets of whole numbers")
        item_bytes = ITEM_BYTES.get(str(own.get("dtype")))
        if item_bytes is None:
            raise _unsound(
                path, f"{name[:80]!r} is of type {str(own.get('dtype'))[:20]!r}; legal: {', '.join(ITEM_BYTES)}"
            )
        begin, end = offsets
        absurd = len(shape) > MAX_DIMENSIONS or any(size > max(data_bytes, EMPTY_SIZE) for size in shape)
        # of an empty tensor too torch multiplies the sizes, for the steps from value to value
        absurd |= math.prod(max(size, 1) for size in shape) * item_bytes >= 2**63
        if absurd or math.prod(shape) * item_bytes != end - begin:
            raise _unsound(
                path, f"{name[:80]!r} of shape {str(shape)[:80]} and {item_bytes} bytes a value has {end - begin} bytes"
            )
        places.append((begin, end, name))
    filled = 0
    for begin, end, name in sorted(places):
        if begin != filled:
            raise _unsound(
                path, f"{name[:80]!r} begins at byte {begin} of the data, the one before it ends at {filled}"
            )
        filled = end
    if filled != data_bytes:
        raise _unsound(path, f"its tensors fill {filled} of {data_bytes} bytes")


def _sizes(values: Any) -> list[int] | None:
    whole = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)
    return values if whole else None


def _each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:80]!r} stands there twice")
        found[name] = value
    return found


def _unsound(path: Path, what: str) -> WeightsError:
    return WeightsError(f"{path}: not a sound safetensors file: {what}; get it again")


def _from_torch(path: Path, wanted: Mapping[str, Sequence[str]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from seglens.foreign.torch_files import read_torch_beside

    try:
        return read_torch_beside(path, wanted)
    except WeightsError:
        raise
    except Exception as fault:  # a damaged file fails in as many ways as pickle and zip have parts
        reason = (str(fault) or type(fault).__name__).splitlines()[0].removeprefix(f"{path}: ")[:400]
        raise WeightsError(
            f"{path}: cannot be read as plain weights ({reason}). A file that runs code is never opened; "
            "save the state dict alone, best as safetensors"
        ) from None
