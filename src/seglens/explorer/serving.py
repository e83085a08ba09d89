"""``seglens explore``: the app behind its guard, on this machine's own address."""

import socket
from collections.abc import Callable
from pathlib import Path

from seglens.explorer.access import Guard
from seglens.explorer.app import create_app


def serve(run: Path, *, port: int = 0, told: Callable[[str], None] = print) -> None:
    """Serve a finished run to a browser on this machine until the process is stopped.

    Args:
        run: folder of a finished run.
        port: 0 takes a free one.
        told: given the address to open, with its token.

    Raises:
        ValueError: there is nothing to look at, or the port is taken.
    """
    import uvicorn

    guard = Guard(create_app(run))
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(f"port {port} cannot be used: {error.strerror}; give another --port, or 0") from None
        told(f"http://127.0.0.1:{listening.getsockname()[1]}/?token={guard.token}")
        server = uvicorn.Server(uvicorn.Config(guard, log_level="warning", access_log=False, server_header=False))
        server.run(sockets=[listening])
