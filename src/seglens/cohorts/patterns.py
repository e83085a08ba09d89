"""Path patterns with named fields, such as ``"images/{patient}-{slice}-t1c.png"``."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_FIELD = re.compile(r"\{(\w+)\}")
_DIGITS = {"slice"}


class Pattern:
    """A relative path with fields in braces; ``*`` matches anything within one name.

    ``{slice}`` matches digits, any other field anything within one name, as much as possible; a field that occurs
    twice must match the same text.

    Attributes:
        fields: the fields' names, in order.
    """

    def __init__(self, text: str):
        parts = _FIELD.split(text)
        self.text = text
        self.fields = tuple(dict.fromkeys(parts[1::2]))
        if ".." in Path(text).parts or Path(text).is_absolute():
            raise ValueError(f"the pattern {text!r} must stay inside the data set's folder")
        if set("{}") & set("".join(parts[0::2])):
            raise ValueError(f"the pattern {text!r} has a brace without its partner; fields look like {{patient}}")
        expression = ""
        for number, part in enumerate(parts):
            if number % 2 == 0:
                expression += re.escape(part).replace(r"\*", "[^/]*")
            elif f"(?P<{part}>" in expression:
                expression += f"(?P={part})"
            else:
                expression += f"(?P<{part}>{r'[0-9]+' if part in _DIGITS else '[^/]+'})"
        self._expression = re.compile(expression)

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """The files under ``root`` that match, in order of their paths, with the text of each field."""
        for file in sorted(root.glob(_FIELD.sub("*", self.text))):
            match = self._expression.fullmatch(file.relative_to(root).as_posix())
            if match is not None and file.is_file():
                yield file, match.groupdict()

    def path(self, root: Path, fields: Mapping[str, str]) -> Path:
        """The file with these fields; of several that a ``*`` matches the first, of none a path that is not there."""
        text = _FIELD.sub(lambda field: fields[field[1]], self.text)
        if "*" not in text:
            return root / text
        escaped = "*".join(re.sub(r"([\[?])", r"[\1]", part) for part in text.split("*"))
        return next(iter(sorted(root.glob(escaped))), root / text)
