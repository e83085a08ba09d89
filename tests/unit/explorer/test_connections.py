import socket
import threading
from contextlib import ExitStack

import pytest
import uvicorn

from seglens.explorer import connections
from seglens.explorer.connections import BoundedConnection

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def app(scope, receive, send):
    """Answer every request with "here"."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"here"})


@pytest.fixture
def connect(monkeypatch):
    """A server with two connections at most; each call opens one."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.2)
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, http=BoundedConnection, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def opened():
            return stack.enter_context(socket.create_connection(listening.getsockname(), timeout=20))

        yield opened
        server.should_exit = True
        thread.join(20)


def test_a_connection_that_says_nothing_or_half_a_request_is_closed(connect):
    silent, half = connect(), connect()
    half.sendall(REQUEST[:20])
    assert silent.recv(10) == b""
    assert half.recv(10) == b""


def test_a_connection_that_falls_silent_after_an_answer_is_closed(connect):
    client = connect()
    client.sendall(REQUEST)
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    client.sendall(REQUEST[:20])
    rest = b"".join(iter(lambda: client.recv(1000), b""))
    assert rest in (b"", b"here")


def test_one_too_many_is_closed_and_a_later_one_answered(connect):
    first, second = connect(), connect()
    for client in (first, second):
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert connect().recv(10) == b""
    first.close()
    second.close()
    later = connect()
    while not (answer := _answer(later)):  # until the server has seen that they are closed
        later = connect()
    assert answer.startswith(b"HTTP/1.1 200")


def _answer(client):
    try:
        client.sendall(REQUEST)
        return client.recv(1000)
    except OSError:
        return b""
