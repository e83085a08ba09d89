"""Suggestions in a message about a name that there is not."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """``"did you mean 'a' or 'b'? "`` with the nearest of the known names, or ``""`` where none is near."""
    near = get_close_matches(wanted, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""
