"""What every route works with."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from seglens.explorer.names import Names
from seglens.explorer.opened import OpenedRun


@dataclass(frozen=True)
class State:
    """The run that is shown, and the names that people gave."""

    run: OpenedRun
    names: Names


def _state(request: Request) -> State:
    held: State = request.app.state.held
    return held


Held = Annotated[State, Depends(_state)]
"""A route's parameter of this type is the app's `State`."""
