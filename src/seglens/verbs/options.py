"""Exit codes and options that mean the same in every verb."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from seglens.foreign.plain_numbers import decimal_number, whole_number

DONE, FAULT, REFUSED, QUARANTINED = 0, 1, 2, 3
"""Exit codes; docs/exit-codes.md says what they mean."""


def _whole(_: object, tokens: Sequence[Token]) -> int:
    return whole_number(tokens[0].value)


def _decimal(_: object, tokens: Sequence[Token]) -> float | tuple[float, ...]:
    values = tuple(decimal_number(token.value) for token in tokens)
    return values if len(values) > 1 else values[0]


WHOLE = Parameter(converter=_whole)
"""Of every option that is a whole number: the library would round 1.5."""
DECIMAL = Parameter(converter=_decimal)
"""Of every option that is a number, or some."""
Out = Annotated[Path, Parameter(help="Folder of the run; finished stages in it are reused.")]

Jobs = Annotated[
    int | None, WHOLE, Parameter(help="Stages at once, a worker process each; by default one a core, 4 at most.")
]
StudyFile = Annotated[Path, Parameter(help="The study's YAML file; `seglens run --example` prints one.")]
Strict = Annotated[bool, Parameter(help="Stop where a case would be quarantined.", negative="")]
