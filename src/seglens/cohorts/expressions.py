"""Regular expressions that others wrote: searched for within limits of time and memory."""

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

MAX_SECONDS = 1.0
"""For one search: some expressions take longer than the universe is old, and nothing stops Python's own engine."""
MAX_CHARACTERS = 200
MAX_REPEATS = 10_000
_COUNTS = re.compile(r"\{([0-9]*),?([0-9]*)\}")


def limited_search(expression: str, text: str) -> "regex.Match[str] | None":
    """Search a text for a regular expression of Python's kind.

    Args:
        expression: of at most 200 characters.
        text: to be searched.

    Raises:
        ValueError: no regular expression, one that unfolds to very many states, or one that takes longer than a second.
    """
    import regex  # as `re`, but with a limit of time

    shown = f"patient={expression[:MAX_CHARACTERS]!r}"
    counts = [max(int(number[:9] or 0) for number in pair) for pair in _COUNTS.findall(expression)]
    if len(expression) > MAX_CHARACTERS or math.prod(max(1, count) for count in counts) > MAX_REPEATS:
        raise ValueError(
            f"{shown} has over {MAX_CHARACTERS} characters or over {MAX_REPEATS} repetitions in repetitions; write it "
            "shorter, such as (P-[0-9]+)"
        )
    try:
        re.compile(expression)
        return regex.search(expression, text, timeout=MAX_SECONDS)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{shown} is no regular expression ({error}); correct it") from None
    except TimeoutError:
        raise ValueError(
            f"{shown} is still searched for in {text!r} after {MAX_SECONDS:g} s; write it without a repetition in a "
            "repetition, such as (P-[0-9]+)"
        ) from None
