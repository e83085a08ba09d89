"""Arrays as one binary message: what a page shows arrives once, in the form in which it is drawn.

A message is the length of a JSON header (4 bytes, little endian), the header, and the arrays, each at a multiple of 8
bytes from the message's begin. The header is ``{"meta": ..., "arrays": {name: {"dtype", "shape", "start"}}}``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

MEDIA_TYPE = "application/octet-stream"
ALIGNMENT = 8
TYPES = ("uint8", "uint16", "int32", "uint32", "float32")
"""What browsers have a typed array for, and what is sent here."""


def pack(arrays: Mapping[str, np.ndarray], meta: Any = None) -> bytes:
    """One message of named arrays and anything JSON-able.

    Args:
        arrays: of one of `TYPES`.
        meta: JSON-able, without NaN.

    Raises:
        ValueError: another type.
    """
    header: dict[str, Any] = {}
    start = 0
    for name, array in arrays.items():
        if array.dtype.name not in TYPES:
            raise ValueError(f"{name} is of type {array.dtype}; send one of {', '.join(TYPES)}")
        header[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "start": start}
        start += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps({"meta": meta, "arrays": header}, ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-(4 + len(text)) % ALIGNMENT)
    parts = [len(text).to_bytes(4, "little"), text]
    for array in arrays.values():
        parts += [np.ascontiguousarray(array).tobytes(), bytes(-array.nbytes % ALIGNMENT)]
    return b"".join(parts)


def unpack(message: bytes) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and the rest of a message, as a page reads it."""
    begin = 4 + int.from_bytes(message[:4], "little")
    header = json.loads(message[4:begin])
    arrays = {}
    for name, entry in header["arrays"].items():
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = np.frombuffer(message, dtype=entry["dtype"], count=count, offset=begin + entry["start"])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays, header["meta"]


def columns(table: pl.DataFrame, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns of a table as arrays: numbers as float32 (NaN where there is none), words as numbers of a list.

    Returns:
        The arrays, and for each column of words ``{"words": [...]}``; code 0 is "no word".
    """
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {}
    for name in names:
        column = table[name]
        if column.dtype == pl.String:
            words = sorted(column.drop_nulls().unique().to_list())
            codes = {word: number for number, word in enumerate(words, start=1)}
            arrays[name] = np.array([codes.get(word, 0) for word in column.to_list()], dtype=np.uint32)
            meta[name] = {"words": words}
        else:
            arrays[name] = column.cast(pl.Float32).fill_null(float("nan")).to_numpy().astype(np.float32)
            meta[name] = {}
    return arrays, meta
