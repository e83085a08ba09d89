"""Arrays that others made: ``.npy`` without objects, its size checked against the file first."""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DIMENSIONS = 8
KINDS = "biuf"
"""Booleans, integers and floats; never objects."""


class ArrayError(ValueError):
    """A file of arrays that cannot be used."""


def parse_npy(raw: bytes, origin: str) -> NDArray[Any]:
    """The array of a ``.npy`` file's bytes; its header is checked against their number before memory is taken.

    Args:
        raw: the whole file, format version 1 to 3.
        origin: what it is called in a message.

    Returns:
        The numbers in the file's own type and order of axes; it cannot be written to.

    Raises:
        ArrayError: objects (which only pickle can restore), other types than numbers, a shape that is not the file's
            size, or no such format.
    """
    file = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(file)
        # a header of version 3 differs from 2 by the coding of field names, and arrays with fields are refused below
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, column_first, dtype = read_header(file)
    except Exception as fault:  # NumPy parses the header's text with Python's own parser, whose errors are many
        reason = (str(fault) or type(fault).__name__).splitlines()[0]
        raise ArrayError(f"{origin}: no sound .npy file ({reason}); save the array again with numpy.save") from None
    check_claim(origin, shape, dtype, len(raw) - file.tell())
    values = np.frombuffer(raw, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if column_first else "C")


def check_claim(origin: str, shape: Any, dtype: np.dtype[Any], n_bytes: int) -> None:
    """Refuse an array that claims another size than the bytes that are there, or that is not of plain numbers.

    Args:
        origin: what the array is called in the message.
        shape: as claimed.
        dtype: as claimed.
        n_bytes: that are there.

    Raises:
        ArrayError: the claim is wrong.
    """
    if dtype.kind not in KINDS or dtype.hasobject or dtype.fields is not None:
        raise ArrayError(
            f"{origin}: values of type {str(dtype)[:80]}; only plain numbers are read, for restoring objects would "
            "run code: save the numbers alone"
        )
    few = isinstance(shape, tuple) and len(shape) <= MAX_DIMENSIONS
    whole = few and all(type(size) is int and abs(size) < 2**62 for size in shape)
    if not whole or min(shape, default=0) < 0:
        # only of whole numbers: the text of tuples in tuples in tuples ... could be longer than any memory
        given = str(shape)[:80] if whole else f"of {type(shape).__name__}"
        raise ArrayError(f"{origin}: the shape {given}; legal are up to {MAX_DIMENSIONS} whole numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != n_bytes or (claimed == 0 and any(size > 2**31 for size in shape)):
        raise ArrayError(
            f"{origin}: shape {str(shape)[:80]} of {dtype} needs {claimed} bytes, {n_bytes} are there; save it again"
        )
