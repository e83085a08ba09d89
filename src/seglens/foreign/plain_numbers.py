"""Whole numbers as people write them, and nothing else that Python takes for one."""

import re
from collections.abc import Mapping
from typing import Any

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


def whole_number(text: str, *, max_digits: int = 18) -> int:
    """A whole number in decimal digits; no blanks, underscores, leading zeros, fractions or digits of other scripts.

    Args:
        text: what stands there.
        max_digits: with 18 every number fits 64 bits.

    Raises:
        ValueError: any other text, or more digits.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no whole number; write it in decimal digits, such as 10")
    if len(text.removeprefix("-")) > max_digits:
        raise ValueError(f"{text[:40]!r} has more than {max_digits} digits; give a smaller number")
    return int(text)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; a truth or a fraction such as 1.0 is none."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def decimal_number(text: str) -> float:
    """A number as YAML 1.2 writes one, such as 1, 0.5 or 1e-4; never NaN or infinite.

    Raises:
        ValueError: any other text, or a number beyond a float's range.
    """
    value = float(text) if DECIMAL.fullmatch(text) else float("inf")
    if abs(value) == float("inf"):
        raise ValueError(f"{text[:40]!r} is no number; write it as 1, 0.5 or 1e-4")
    return value


def whole_keys(table: Any) -> Any:
    """A mapping with whole numbers as keys; keys as JSON has them, such as ``"1"``, become numbers.

    Args:
        table: what is no mapping is handed back as it is.

    Raises:
        ValueError: a key that is no whole number, or two that are one.
    """
    if not isinstance(table, Mapping):
        return table
    found: dict[int, Any] = {}
    for key, value in table.items():
        if not isinstance(key, str) and not is_whole(key):
            raise ValueError(f"the key {key!r} is no whole number; write it in decimal digits, such as 10")
        number = whole_number(key) if isinstance(key, str) else int(key)
        if number in found:
            raise ValueError(f"{number} stands there twice, for {found[number]!r} and for {value!r}; give each once")
        found[number] = value
    return found
