"""Rows 52 and 89: who and what the explorer refuses."""

import asyncio

import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import ValidationError

from seglens.explorer.access import MAX_BODY, Guard
from seglens.explorer.names import GivenName

HERE = "http://127.0.0.1:8000"
FROM_HERE = {"origin": HERE}


@pytest.fixture
def guard():
    """A guard before an app that says what it was asked for."""
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
    async def echo(path: str, request: Request) -> dict[str, object]:
        return {"path": path, "query": dict(request.query_params), "bytes": len(await request.body())}

    return Guard(app)


def visitor(guard, base_url=HERE):
    return TestClient(guard, base_url=base_url)


@pytest.fixture
def guest(guard):
    """Somebody who opened the printed address."""
    client = visitor(guard)
    assert client.get(f"/?token={guard.token}").json()["path"] == ""
    return client


def test_row_52_the_token_becomes_a_cookie_and_leaves_the_address(guard):
    """The first visit trades the token for a cookie; a deep link stays what it was."""
    answer = visitor(guard).get(f"/latents/adult/3?token={guard.token}&kind=top", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/latents/adult/3?kind=top"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and guard.token not in cookie


def test_row_52_a_link_in_a_notebook_opens_it(guard):
    """From another site's page only who has the token comes in, by a page of our own that the cookie is sent from."""
    client = visitor(guard)
    elsewhere = {"sec-fetch-site": "same-site"}
    answer = client.get(f"/latents/adult?token={guard.token}&a=%22%3E%3Cb%3E", headers=elsewhere)
    assert answer.status_code == 200 and not answer.history
    assert 'content="0;url=/latents/adult?a=%22%3E%3Cb%3E"' in answer.text
    assert client.get("/latents/adult", headers={"sec-fetch-site": "same-origin"}).json()["path"] == "latents/adult"
    assert client.get("/latents/adult", headers=elsewhere).status_code == 403
    assert visitor(guard).get("/?token=guessed", headers=elsewhere).status_code == 401


def test_row_52_two_explorers_in_one_browser():
    """A browser has one jar for all ports of this machine: what one explorer keeps there leaves another's alone."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guards = {port: Guard(app) for port in (8000, 8001)}
    cookies = {}
    for port, guard in guards.items():
        answer = visitor(guard, f"http://127.0.0.1:{port}").get(f"/?token={guard.token}", follow_redirects=False)
        cookies |= dict(answer.cookies)
    for port, guard in guards.items():
        client = TestClient(guard, base_url=f"http://127.0.0.1:{port}", cookies=cookies)
        assert client.get("/").status_code == 200


def test_row_52_without_a_token_or_with_a_wrong_one_401(guard):
    """Nobody sees anything without the printed address."""
    client = visitor(guard)
    assert client.get("/").status_code == 401
    assert client.get("/api/overview").status_code == 401
    assert client.get("/?token=guessed").status_code == 401
    assert client.get("/?token=").status_code == 401
    assert client.get("/", headers={"cookie": "seglens-8000=guessed"}).status_code == 401
    assert client.get("/", headers={"cookie": 'seglens-8000="'}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "192.168.1.7"])
def test_row_52_a_foreign_host_400(guest, host):
    """A name that was made to point to this machine does not open it."""
    assert guest.get("/", headers={"host": host}).status_code == 400


def test_row_52_a_cross_origin_post_403(guest):
    """What changes something must come from the explorer's own page."""
    assert guest.post("/api/x", json={}).status_code == 403
    assert guest.post("/api/x", json={}, headers={"origin": "http://evil.example"}).status_code == 403
    assert guest.post("/api/x", json={}, headers={"origin": "null"}).status_code == 403
    assert guest.delete("/api/x", headers={"origin": "http://127.0.0.1:9"}).status_code == 403
    assert guest.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert guest.post("/api/x", json={}, headers=FROM_HERE).json()["path"] == "api/x"


def test_row_52_a_huge_body_413(guest):
    """A body's size is known before it is read, and counted where it was not announced."""
    assert guest.post("/api/x", content=b"x" * (MAX_BODY + 1), headers=FROM_HERE).status_code == 413
    chunks = (b"x" * 2**16 for _ in range(MAX_BODY // 2**16 + 1))
    assert guest.post("/api/x", content=chunks, headers=FROM_HERE).status_code == 413
    assert guest.post("/api/x", content=b"x" * MAX_BODY, headers=FROM_HERE).json()["bytes"] == MAX_BODY
    assert guest.post("/api/x", content=b"", headers={**FROM_HERE, "content-length": "many"}).status_code == 400


def test_row_52_no_address_leads_out_of_the_page(guard, guest):
    """A redirect stays here, whatever the path says."""
    for path in ("//evil.example/", "/%0d%0aset-cookie:x", "/\\evil.example"):
        answer = guest.get(f"{path}?token={guard.token}", follow_redirects=False)
        place = answer.headers.get("location", "/")
        assert place.startswith("/") and not place.startswith(("//", "/\\")) and "\n" not in place
        assert "x" not in answer.cookies


def test_row_52_every_answer_forbids_foreign_and_inline_scripts(guest, guard):
    """A strict policy on what is served and on what is refused."""
    for answer in (guest.get("/"), visitor(guard).get("/"), guest.get("/", headers={"host": "evil"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_row_52_only_http_is_spoken(guard):
    """A websocket is no way around."""

    async def nothing(*_):
        raise AssertionError

    with pytest.raises(RuntimeError, match="speaks http, not websocket"):
        asyncio.run(guard({"type": "websocket"}, nothing, nothing))


@pytest.mark.parametrize(
    "host", ["localhost:80@evil", "localhost:", "localhost:8000:80", "127.0.0.1:x", "localhost:80 ", "LOCALHOST:80#"]
)
def test_row_89_host_that_only_begins_like_this_machine(guard, host):
    """A Host is a local name and a port, whole: what comes behind it is refused too."""
    assert visitor(guard).get(f"/?token={guard.token}", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("mark", ["\n", "\0", "\x1b", "\u2028", "\u202e", "\u2066", "\ud800"])
def test_row_89_given_names_are_one_line_without_control_characters(mark):
    """Line ends, NUL and characters that turn the direction of a text are refused in names and in who gave them."""
    for given in ({"name": f"rim{mark}x"}, {"name": "rim", "who": f"A.{mark}"}):
        with pytest.raises(ValidationError):
            GivenName(**given)
    assert GivenName(name="Rand \u2013 \u8fb9\u7f18 \u05e9\u05e4\u05d4 \u0639").name.endswith("\u0639")
