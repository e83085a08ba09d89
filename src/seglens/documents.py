"""Records as JSON and back: a frozen dataclass is its own schema.

A field with a default is left out where it holds that default, so a record says only what there is to say.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
ESCAPED = "backslashreplace"
"""How text is written that UTF-8 cannot hold, such as a file name in Latin-1: in JSON it is the escape (``\\udcfc`` for
the byte fc) that reads back as what it was."""
MAX_FAULTS = 5
"""Faults of a document that a message names."""


class DocumentError(ValueError):
    """A document is not what its type says; the message names every key, what is there and what is due."""


def escaped(text: str) -> str:
    """Text that UTF-8 can hold: what it cannot (`ESCAPED`) stands there as an escape; any other text as it is."""
    return text.encode(errors=ESCAPED).decode()


def to_document(value: Any, kind: Any = None) -> Any:
    """Write a record as what JSON can hold: dictionaries, lists, strings, numbers, truth values and None.

    Args:
        value: a frozen dataclass, or a container of some.
        kind: its type; None takes that of the value.

    Raises:
        PydanticSerializationError: a field does not hold what its type says.
    """
    adapter = _adapter(type(value) if kind is None else kind)
    return adapter.dump_python(value, mode="json", by_alias=True, exclude_defaults=True, warnings="error")


def from_document(text: str | bytes, kind: Callable[..., T], where: object) -> T:
    """Read a record from JSON.

    Args:
        text: of the document.
        kind: type of the record, such as a frozen dataclass or a ``list`` of one.
        where: the document is, for messages.

    Raises:
        DocumentError: it is no JSON, a key is missing, or something else than is due stands under it.
    """
    from pydantic import ValidationError

    try:
        record: T = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        faults = [f"{_key(fault['loc'])}: {_words(fault)}" for fault in error.errors(include_url=False)]
        more = f" and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise DocumentError(
            f"{where} is damaged or of another version ({'; '.join(faults[:MAX_FAULTS])}{more}); "
            "run again the step that writes it"
        ) from None
    return record


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON schema of a type of record."""
    return _adapter(kind).json_schema()


_ADAPTERS: dict[Any, "TypeAdapter[Any]"] = {}


def _adapter(kind: Any) -> "TypeAdapter[Any]":
    """Adapter of a type; making one takes milliseconds, so it is kept."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the document"


def _words(fault: Any) -> str:
    if fault["type"] == "missing":
        return "is missing"
    got = repr(fault["input"])
    return f"{fault['msg']}, got {got if len(got) <= 60 else f'{got[:57]}...'}"
