import anyio
import pytest

from seglens.explorer.access import MAX_BODY, POLICY, Guard


class Behind:
    """What is guarded: it notes what reaches it and gives the body back."""

    def __init__(self):
        self.paths = []

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"kept")]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def behind():
    return Behind()


@pytest.fixture
def ask(behind):
    """One request through the guard: status, headers, body."""
    guard = Guard(behind, token="secret")

    def asked(path="/", query="", method="GET", parts=(b"",), port=8000, **headers):
        given = {"host": f"127.0.0.1:{port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "server": ("127.0.0.1", port),
        }
        left = list(parts)
        sent = []

        async def receive():
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message):
            sent.append(message)

        anyio.run(guard, scope, receive, send)
        start, *bodies = sent
        return start["status"], dict(start["headers"]), b"".join(one.get("body", b"") for one in bodies)

    return asked


@pytest.fixture
def cookie(ask):
    _, headers, _ = ask(query="token=secret")
    return headers[b"set-cookie"].decode().split(";")[0]


def test_without_the_key_nothing_is_reached(ask, behind):
    assert ask("/api/run")[0] == 401
    assert ask("/api/run", cookie="seglens-8000=guessed")[0] == 401
    assert ask("/", query="token=guessed")[0] == 401
    assert behind.paths == []


def test_the_printed_address_is_traded_for_a_cookie_of_its_port(ask, behind):
    status, headers, _ = ask("/latents/a b", query="sort=mass&token=secret", port=8123)
    assert (status, headers[b"location"]) == (303, b"/latents/a%20b?sort=mass")
    name, rest = headers[b"set-cookie"].decode().split("=", 1)
    assert name == "seglens-8123"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in rest.split(";")}
    assert behind.paths == []


def test_an_address_with_two_slashes_leads_to_no_other_host(ask):
    assert ask("//evil.example/x", query="token=secret")[1][b"location"] == b"/evil.example/x"


def test_with_the_cookie_requests_are_passed_on_under_the_policy(ask, behind, cookie):
    status, headers, _ = ask("/api/run", cookie=cookie)
    assert (status, behind.paths) == (200, ["/api/run"])
    assert headers[b"x-own"] == b"kept"
    assert headers[b"content-security-policy"].decode() == POLICY
    assert (headers[b"cache-control"], headers[b"x-content-type-options"]) == (b"no-store", b"nosniff")
    assert ask("/api/run", cookie=cookie, port=8001)[0] == 401  # another run's page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_name_that_was_made_to_point_here_is_refused(ask, behind, cookie, host):
    assert ask("/api/run", cookie=cookie, host=host)[0] == 400
    assert behind.paths == []


@pytest.mark.parametrize("host", ["localhost:8000", "[::1]:8000", "127.0.0.1"])
def test_local_names_are_answered(ask, cookie, host):
    assert ask("/api/run", cookie=cookie, host=host)[0] == 200


def test_what_another_site_asks_is_refused(ask, behind, cookie):
    assert ask("/api/run", cookie=cookie, sec_fetch_site="cross-site")[0] == 403
    assert ask("/api/x", method="POST", cookie=cookie)[0] == 403
    assert ask("/api/x", method="POST", cookie=cookie, origin="http://evil.example")[0] == 403
    assert behind.paths == []
    own = ask("/api/x", method="POST", cookie=cookie, origin="http://127.0.0.1:8000", sec_fetch_site="same-origin")
    assert own[0] == 200


def test_a_link_on_another_page_leads_on_by_a_page_of_its_own(ask):
    status, headers, body = ask("/map", query='token=secret&a="><script>', sec_fetch_site="cross-site")
    assert status == 200 and b"set-cookie" in headers
    assert b'content="0;url=/map?a=%22%3E%3Cscript%3E"' in body
    assert b"<script>" not in body


@pytest.mark.parametrize(("length", "status"), [("-1", 400), ("many", 400), (str(MAX_BODY + 1), 413)])
def test_an_announced_length_is_looked_at_first(ask, behind, cookie, length, status):
    own = {"method": "POST", "cookie": cookie, "origin": "http://127.0.0.1:8000"}
    assert ask("/api/x", content_length=length, **own)[0] == status
    assert behind.paths == []


def test_a_body_is_counted_whatever_was_announced(ask, behind, cookie):
    own = {"method": "POST", "cookie": cookie, "origin": "http://127.0.0.1:8000"}
    half = b"x" * (MAX_BODY // 2)
    assert ask("/api/x", parts=(half, half, b"x"), **own)[0] == 413
    assert behind.paths == []
    assert ask("/api/x", parts=(half, half), **own)[2] == half + half


def test_it_speaks_http_only(behind):
    with pytest.raises(RuntimeError, match="speaks http, not websocket"):
        anyio.run(Guard(behind), {"type": "websocket"}, None, None)
