"""State that every route works with."""

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from seglens.explorer.names import Names
from seglens.explorer.opened import OpenedRun


@dataclass(frozen=True)
class State:
    """The run that is shown, and the names that people gave.

    Attributes:
        surveying: what needs a survey runs in a thread of its own, one after the other: those who wait for the first
            survey must hold none of the few threads that answer everybody else (see `seglens.explorer.app`).
    """

    run: OpenedRun
    names: Names
    surveying: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))


def _state(request: Request) -> State:
    state: State = request.app.state.explorer
    return state


CurrentState = Annotated[State, Depends(_state)]
"""A route's parameter of this type is the app's `State`."""
