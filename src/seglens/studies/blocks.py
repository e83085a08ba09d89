"""Blocks of a study file that belong to installed analyses, and what is said of names that nothing knows."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from seglens.entry_points import with_installed
from seglens.runtime.suggestions import did_you_mean
from seglens.studies.analysis import GROUP, Analysis

NO_SUCH_NAME = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a name that settings do not have."""
Settings = TypeVar("Settings", bound=BaseModel)


class NoSettings(BaseModel):
    """The block of an analysis without settings: empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def with_blocks(model: type[Settings], content: Any, handler: Callable[[Any], Settings]) -> Settings:
    """Validate settings, and each block that is no field of theirs by the model of the analysis of its name.

    Args:
        model: the settings' class, which allows extra fields.
        content: names to values.
        handler: validates the settings' own fields.

    Raises:
        ValidationError: every fault of fields and blocks; a name that is neither is ``extra_forbidden``.
    """
    others = [name for name in content if name not in model.model_fields] if isinstance(content, dict) else []
    if not others:
        return handler(content)
    models, faults, read = block_models(), list[InitErrorDetails](), dict(content)
    for name in others:
        block = read.pop(name)
        if name not in models:
            faults.append({"type": "extra_forbidden", "loc": (name,), "input": block})
            continue
        try:
            read[name] = models[name].model_validate(block)
        except ValidationError as error:
            faults += _moved(error, name)
    try:
        settings = handler(read)
    except ValidationError as error:
        faults += _moved(error)
    if faults:
        raise ValidationError.from_exception_data(model.__name__, faults)
    return settings


def block_models() -> dict[str, type[BaseModel]]:
    """Settings of each installed analysis, by the name of its block."""
    return {name: row.settings or NoSettings for name, row in with_installed(GROUP, (), Analysis).items()}


def unknown(model: Any, place: Sequence[str | int]) -> str:
    """Say of a name that a settings class does not have which ones it has, the nearest first.

    Args:
        model: the class of the whole.
        place: keys and numbers that lead to the name, itself last.
    """
    blocks = block_models()
    for number, part in enumerate(place[:-1]):
        if number == 0 and part in blocks:
            model = blocks[str(part)]
            continue
        model = _types_of(model)[str(part)] if _is_settings(model) else get_args(model)[-1]
        if get_origin(model) is UnionType:  # settings or None
            model = next(kind for kind in get_args(model) if _is_settings(kind))
    legal = [*_types_of(model), *(blocks if len(place) == 1 else ())]
    return f"unknown; {did_you_mean(str(place[-1]), legal)}legal are {', '.join(legal)}"


def _moved(error: ValidationError, *above: str) -> list[InitErrorDetails]:
    """Faults with their messages, each a level deeper."""
    return [
        {
            "type": fault["type"]
            if fault["type"] in NO_SUCH_NAME
            else PydanticCustomError("settings", "{message}", {"message": fault["msg"]}),
            "loc": (*above, *fault["loc"]),
            "input": fault["input"],
        }
        for fault in error.errors()
    ]


def _types_of(settings: Any) -> dict[str, Any]:
    """Name to type of what a settings class holds."""
    if is_dataclass(settings):
        return {field.name: field.type for field in fields(settings)}
    return {name: field.annotation for name, field in settings.model_fields.items()}


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))
