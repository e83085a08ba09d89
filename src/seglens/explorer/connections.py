"""Connections to the explorer: bounded in number, and in the time that they may say nothing."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
"""A browser opens six to a server; each takes one of the process's open files."""
SILENT_SECONDS = 10.0


class BoundedConnection(H11Protocol):
    """HTTP connection that is closed at once where there are too many, and where no whole request comes in time."""

    _timer: asyncio.TimerHandle | None = None
    _answered: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse to."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(SILENT_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        """Close where no request was begun since the last look, however slowly its bytes come."""
        request = self.cycle
        if request is None or (request is self._answered and request.response_complete):
            self.transport.close()
        else:
            self._answered = request
            self._look_later()
