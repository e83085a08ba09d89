"""Edits as JSON files: one `LatentEdit.description`, or a list of them."""

import json
from pathlib import Path

from seglens.steering.edits import LatentEdit

MAX_BYTES = 2**24


def read_edits(path: Path) -> list[LatentEdit]:
    """The edits in a file, in the order in which they act.

    Raises:
        ValueError: no such file, no JSON, no description of an edit, or an empty list.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        described = content if isinstance(content, list) else [content]
        if not described:
            raise ValueError("it is an empty list, which steers nothing")
        return [LatentEdit.from_description(one) for one in described]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is no file of edits ({error}); write LatentEdit.description() as JSON, or a list of them"
        ) from None
