"""Types of the settings of a study, each with what is legal."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from seglens.studies.hookpoints import hookpoints_or_auto

# strict: "yes" is not 1, and "10" in quotes is a text
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


def _count_or_auto(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{value!r} is neither a whole number from 1 on nor auto")
    return value


Hookpoints = Annotated[tuple[str, ...] | Literal["auto"], BeforeValidator(hookpoints_or_auto)]
CountOrAuto = Annotated[int | Literal["auto"], BeforeValidator(_count_or_auto)]
Label = Annotated[int, Field(strict=True, ge=1, lt=256)]
Rate = Annotated[float, Field(strict=True, gt=0)]
Percentile = Annotated[float, Field(strict=True, ge=0, le=100)]
