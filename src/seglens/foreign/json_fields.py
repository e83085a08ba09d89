"""Values in a JSON file of others, each with the keys that lead to it: whatever is wrong is refused by its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from seglens.foreign.json_text import read_json
from seglens.foreign.plain_numbers import is_whole
from seglens.runtime.streams import printable

T = TypeVar("T")
MAX_ITEMS = 4096
"""Of a list or an object."""


class FieldError(ValueError):
    """A value that cannot be used."""


@dataclass(frozen=True)
class Field:
    """A value of a JSON file.

    Attributes:
        file: where it stands, for messages.
        keys: that lead to it, with dots between them, control characters as escapes; empty for the whole file.
        value: as JSON gives it.
        fix: what to do where it cannot be used.
    """

    file: Path
    keys: str
    value: Any
    fix: str

    @classmethod
    def of(cls, file: Path, fix: str) -> "Field":
        """The whole of a file, which must be an object.

        Raises:
            FieldError: it cannot be read, or is another kind of value.
        """
        try:
            whole = cls(file, "", read_json(file), fix)
        except ValueError as error:
            raise FieldError(f"{error}; {fix}") from None
        whole.entries()
        return whole

    def refuse(self, legal: str, fix: str | None = None) -> NoReturn:
        """Raise a `FieldError` with what stands there, what is legal and what to do."""
        shown = f"{self.keys} is {_shown(self.value)}" if self.keys else f"it holds {_shown(self.value)}"
        raise FieldError(f"{self.file}: {shown}; legal: {legal}; {fix or self.fix}")

    def __contains__(self, key: str) -> bool:
        """Whether an object has that key."""
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> "Field":
        """The value of a key of an object; FieldError where there is none."""
        entries = self.entries()
        if key not in entries:
            inside = f"{self.keys} has" if self.keys else "it has"
            raise FieldError(f"{self.file}: {inside} no key {key!r}; {self.fix}")
        return entries[key]

    def get(self, key: str) -> "Field | None":
        """The value of a key of an object; None where there is none, or null."""
        entry = self.entries().get(key)
        return None if entry is None or entry.value is None else entry

    def entries(self) -> dict[str, "Field"]:
        """Keys and values of an object, in its order."""
        if not isinstance(self.value, dict) or len(self.value) > MAX_ITEMS:
            self.refuse(f"an object of at most {MAX_ITEMS} keys")
        start = f"{self.keys}." if self.keys else ""
        named = {key: f"{start}{printable(key[:80])}" for key in self.value}
        return {key: Field(self.file, named[key], value, self.fix) for key, value in self.value.items()}

    def items(self, n: int | None = None) -> list["Field"]:
        """The values of a list, ``n`` where that is given."""
        if not isinstance(self.value, list) or len(self.value) > MAX_ITEMS or (n is not None and len(self.value) != n):
            self.refuse(f"a list of {'some values' if n is None else f'{n} values'}")
        return [Field(self.file, f"{self.keys}.{place}", value, self.fix) for place, value in enumerate(self.value)]

    def whole(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        if not is_whole(self.value) or not low <= self.value <= high:
            self.refuse(f"a whole number from {low} to {high}")
        return int(self.value)

    def wholes(self, n: int, low: int, high: int) -> tuple[int, ...]:
        """``n`` whole numbers from ``low`` to ``high``."""
        return tuple(item.whole(low, high) for item in self.items(n))

    def number(self, low: float | int = -math.inf, high: float | int = math.inf) -> float:
        """A finite number from ``low`` to ``high``."""
        known = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not known or abs(self.value) > 1e300 or not low <= self.value <= high:
            self.refuse(f"a number from {low:g} to {high:g}")
        return float(self.value)

    def truth(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return bool(self.value)

    def text(self) -> str:
        """Text of at most 1000 characters."""
        if not isinstance(self.value, str) or not 0 < len(self.value) <= 1000:
            self.refuse("a text of at most 1000 characters")
        return str(self.value)

    def one_of(self, table: Mapping[Any, T], fix: str | None = None) -> T:
        """Meaning of the value in a table; None may be a key."""
        if (self.value is not None and not isinstance(self.value, str)) or self.value not in table:
            self.refuse(", ".join(str(key) for key in table), fix)
        return table[self.value]


def _shown(value: Any) -> str:
    """For a message: short, whatever the file holds."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a number of too many digits"
    return repr(value) if not isinstance(value, str) else repr(value[:80])
