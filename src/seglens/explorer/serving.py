"""The app behind its guard, on this machine's own address: for the command, and for a notebook."""

import socket
import threading
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from seglens.explorer.access import Guard
from seglens.explorer.app import create_app
from seglens.runs import Run

if TYPE_CHECKING:
    import uvicorn

END_WITHIN_SECONDS = 5.0


class Exploration:
    """An explorer that is running; in a notebook it shows its link.

    Attributes:
        address: what to open, with its token.
    """

    def __init__(self, address: str, server: "uvicorn.Server", thread: threading.Thread):
        self.address = address
        self._server = server
        self._thread = thread

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(END_WITHIN_SECONDS)

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.address)}" target="_blank" rel="noopener">{escape(self.address)}</a>'


def explore(run: Run | Path | str, *, port: int = 0) -> Exploration:
    """Open the explorer over a finished run, beside what else this process does: ``sl.explore("demo")``.

    Args:
        run: the run or its folder.
        port: 0 takes a free one.

    Raises:
        ValueError: there is nothing to look at, or the port is taken.
    """
    listening, server, address = _prepared(run.path if isinstance(run, Run) else Path(run), port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    return Exploration(address, server, thread)


def serve(run: Path, *, port: int = 0, announce: Callable[[str], None] = print) -> None:
    """Serve a finished run to a browser on this machine until the process is stopped.

    Args:
        run: its folder.
        port: 0 takes a free one.
        announce: given the address to open, with its token.

    Raises:
        ValueError: there is nothing to look at, or the port is taken.
    """
    listening, server, address = _prepared(run, port)
    with listening:
        announce(address)
        server.run(sockets=[listening])


def _prepared(run: Path, port: int) -> tuple[socket.socket, "uvicorn.Server", str]:
    import uvicorn

    from seglens.explorer.connections import BoundedConnection

    app = create_app(run)
    threading.Thread(target=app.state.explorer.run.warm_up, daemon=True).start()
    guard = Guard(app)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else "legal are 0 to 65535"
        raise ValueError(f"port {port} cannot be used: {reason}; give another --port, or 0") from None
    settings = uvicorn.Config(guard, http=BoundedConnection, log_level="warning", access_log=False, server_header=False)
    server = uvicorn.Server(settings)
    return listening, server, f"http://127.0.0.1:{listening.getsockname()[1]}/?token={guard.token}"
