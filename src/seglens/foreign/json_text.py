"""JSON that others wrote: bounded, every key once, and no number that is none."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from re import Match
from typing import Any

MAX_BYTES = 2**24
"""Of a whole file: what it unfolds to in memory is at most some tens of times as much."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:\n]')


class JsonError(ValueError):
    """Text that is no JSON, or that contradicts itself."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        JsonError: with the file's name: it cannot be read, is too large, is no JSON, or holds a key twice.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            size = path.stat().st_size
            raise JsonError(f"it holds {size} bytes, over the cap of {MAX_BYTES}; is it the right file?")
        return parse_json(raw.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise JsonError(f"{path} cannot be read as JSON ({error}); mend it") from None


def parse_json(text: str) -> Any:
    """Read JSON text.

    Raises:
        JsonError: no JSON, an object that holds a key twice (both lines are named), NaN, a number beyond a float's
            range, or more levels than Python's stack holds.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number, parse_float=_finite)
    except _TwiceError as error:
        raise JsonError(f"{str(error)[:80]!r} stands there twice{_where(text)}; keep one") from None
    except RecursionError:
        raise JsonError("more levels than anybody writes by hand") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(str(error)) from None


class _TwiceError(Exception):
    """A key that an object holds twice."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def _no_number(text: str) -> Any:
    raise JsonError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"{text[:40]} is beyond a float's range")
    return value


def _where(text: str) -> str:
    """The lines of the first key that its object holds twice, in text that is JSON."""
    line, last, above = 1, ("", 0), list[dict[str, int] | None]()
    for token in map(Match.group, _TOKEN.finditer(text)):
        if token == "\n":
            line += 1
        elif token in "{[":
            above.append({} if token == "{" else None)
        elif token in "}]":
            above.pop()
        elif token[0] == '"':
            last = (json.loads(token), line)
        elif token == ":" and (keys := above[-1]) is not None:
            if last[0] in keys:
                return f", in the lines {keys[last[0]]} and {last[1]}"
            keys[last[0]] = last[1]
    return ""
