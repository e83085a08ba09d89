"""Path patterns with named fields, such as ``"images/{patient}-{slice}-t1c.png"``."""

import glob
import re
from collections.abc import Callable, Iterator, Mapping
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
        if unfit := [field for field in self.fields if not field.isidentifier()]:
            raise ValueError(
                f"the pattern {text!r} has the field {{{unfit[0]}}}; a field is a name, such as {{patient}} or {{t1}}"
            )
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
        for file in sorted(root.glob(self._glob(lambda _: "*"))):
            match = self._expression.fullmatch(file.relative_to(root).as_posix())
            if match is not None and file.is_file():
                yield file, match.groupdict()

    def path(self, root: Path, fields: Mapping[str, str]) -> Path:
        """The file with these fields; a path that is not there where a ``*`` matches none.

        Raises:
            ValueError: a ``*`` matches several.
        """
        text = _FIELD.sub(lambda field: fields[field[1]], self.text)
        if "*" not in self.text:
            return root / text
        named = root.glob(self._glob(lambda field: glob.escape(fields[field])))
        found = sorted(file for file in named if file.is_file())
        if len(found) > 1:
            raise ValueError(
                f"{found[0]} and {found[1]} both match {text!r} (the pattern {self.text!r}); make the pattern exact: "
                "write what `*` stands for, or what stands between it and the fields"
            )
        return found[0] if found else root / text

    def _glob(self, text_of: Callable[[str], str]) -> str:
        """For `Path.glob`: each field as ``text_of`` it, and no sign but ``*`` means more than itself."""
        parts = _FIELD.split(self.text)
        parts[0::2] = ["*".join(map(glob.escape, part.split("*"))) for part in parts[0::2]]
        parts[1::2] = map(text_of, parts[1::2])
        return re.sub(r"\*{2,}", "*", "".join(parts))
