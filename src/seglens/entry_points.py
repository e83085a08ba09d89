"""Rows that installed packages add to the project's tables, by entry points (importlib.metadata)."""

import sys
from collections.abc import Collection, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")
"""A frozen dataclass with a ``name``: what it is called in study files and on the command line."""
_name_of = attrgetter("name")


def with_installed(group: str, rows: Iterable[Row], kind: type[Row]) -> dict[str, Row]:
    """Rows by name: the project's own, then those of installed packages.

    Args:
        group: of the entry points, such as ``"seglens.architectures"``.
        rows: the project's own.
        kind: what each entry point must give.

    Raises:
        ValueError: an entry point that cannot be loaded, gives something else, or has the name of another row.
    """
    table = {_name_of(row): row for row in rows}
    for entry in sorted(declared(group), key=lambda entry: (entry.name, entry.value)):
        origin = _origin(entry)
        try:
            row = entry.load()
        except Exception as error:  # the package's own code runs here: whatever it raises
            raise ValueError(f"{origin} cannot be loaded ({error}); mend or uninstall that package") from error
        if not isinstance(row, kind):
            raise ValueError(f"{origin} gives a {type(row).__name__}; it must give a {kind.__name__}")
        name = _name_of(row)
        if name in table:
            raise ValueError(f"{origin} is called {name!r}, as another row is; it needs a name of its own")
        table[name] = row
    return table


def refuse_taken(group: str, names: Collection[str]) -> None:
    """Refuse installed packages whose entry points are called as the project's own rows are; nothing is loaded.

    Raises:
        ValueError: which entry point.
    """
    for entry in declared(group):
        if entry.name in names:
            raise ValueError(
                f"{_origin(entry)} is called {entry.name!r}, as another row is; it needs a name of its own"
            )


def declared(group: str) -> tuple[EntryPoint, ...]:
    """Give the entry points of a group; packages are looked through again where a folder of ``sys.path`` has changed.

    A study asks for its rows hundreds of times, and each look through all packages takes some hundredths of a second.
    """
    return _looked_up(group, tuple((place, _changed(place)) for place in sys.path))


@lru_cache(maxsize=32)
def _looked_up(group: str, places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _changed(place: str) -> int:
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:  # such as the archive of the standard library, which is mostly not there
        return 0


def _origin(entry: EntryPoint) -> str:
    package = "" if entry.dist is None else f", of the package {entry.dist.name}"
    return f"the entry point {entry.name} = {entry.value!r} of {entry.group}{package}"
