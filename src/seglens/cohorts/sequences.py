"""One name for each MRI sequence, however a data set spells it, and for the colours of pictures."""

import re
from collections.abc import Iterable

COLOURS = ("R", "G", "B")
"""The sequences of colour pictures, in the order of their channels."""
CANONICAL = ("T1", "T1c", "T2", "FLAIR", *COLOURS)
_SPELLINGS = {
    "T1": ("t1", "t1n", "t1w", "t1native", "t1pre"),
    "T1c": ("t1c", "t1ce", "t1gd", "t1cw", "t1wgd", "t1gadolinium", "t1post", "t1contrast"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f", "t2flair", "t2wflair", "fluidattenuated"),
}
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


def canonical_sequence(name: str) -> str:
    """``"t1ce"``, ``"T1-Gd"`` -> ``"T1c"`` and so on; a name that is not known stays as it is."""
    return _NAMES.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The canonical ones in their usual order, then the others by name."""
    given = set(names)
    return (*(name for name in CANONICAL if name in given), *sorted(given - set(CANONICAL)))
