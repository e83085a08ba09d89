"""Edits as JSON files: one `LatentEdit.description`, or a list of them."""

from pathlib import Path

from seglens.foreign.json_text import JsonError, read_json
from seglens.steering.edits import LatentEdit


def read_edits(path: Path) -> list[LatentEdit]:
    """The edits in a file, in the order in which they act.

    Raises:
        ValueError: no such file, no JSON, no description of an edit, or an empty list.
    """
    try:
        content = read_json(path)
        described = content if isinstance(content, list) else [content]
        if not described:
            raise ValueError("it is an empty list, which steers nothing")
        return [LatentEdit.from_description(one) for one in described]
    except JsonError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no file of edits ({error}); write LatentEdit.description() as JSON, or a list of them"
        ) from None
