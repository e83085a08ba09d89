"""Access to the explorer: for one browser on this machine, which was given the address that was printed.

The address holds a random token; the first visit, also by a link in a notebook, trades it for a cookie that other
sites' pages cannot send. A foreign Host (a name that was made to point here), any other request that another site's
page makes, and bodies of more than `MAX_BODY` are refused before anything is read. Pages may run the scripts that
are shipped here and no others.
"""

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "seglens"
"""Its name begins so and ends with the port: browsers keep one jar for all ports, and two runs may be open at once."""
MAX_BODY = 2**20
TOO_LARGE = f"a body may have {MAX_BODY} bytes"
LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
SAFE_METHODS = ("GET", "HEAD")
OWN_SITES = ("same-origin", "none")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Everything before the app itself (ASGI).

    Args:
        app: what is guarded.
        token: the secret of the printed address; None makes one.
    """

    def __init__(self, app: App, token: str | None = None):
        self._app = app
        self.token = token or secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the explorer speaks http, not {scope['type']}")
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            await _answer(send, *refusal)
        elif _token_in(scope):
            await self._let_in(scope, headers, send)
        elif not self._known(scope, headers):
            await _answer(send, 401, "open the address that `seglens explore` printed; it holds the key")
        else:
            await self._pass_on(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if not LOCAL_HOST.fullmatch(host):
            return 400, "this server answers to 127.0.0.1 and localhost only"
        if scope["method"] not in SAFE_METHODS and headers.get(b"origin") != f"http://{host}":
            return 403, "requests that change something must come from the explorer's own page"
        if _is_foreign(headers) and not _token_in(scope):
            return 403, "another site's page may not ask here"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal():
            return 400, "content-length must be a number"
        if int(length) > MAX_BODY:
            return 413, TOO_LARGE
        return None

    async def _let_in(self, scope: Scope, headers: dict[bytes, str], send: Send) -> None:
        if not hmac.compare_digest(_token_in(scope).encode(), self.token.encode()):
            await _answer(send, 401, "this token is not, or no longer, valid; use the address that was printed last")
            return
        rest = urlencode([(name, value) for name, value in _query(scope) if name != "token"])
        place = "/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
        cookie = (b"set-cookie", f"{_cookie_name(scope)}={self._session}; HttpOnly; SameSite=Strict; Path=/".encode())
        if _is_foreign(headers):
            # a redirect would still count as the other site's, and come without the cookie; this page's own does not
            onward = f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(place)}">'
            await _answer(send, 200, onward, cookie, kind=b"text/html; charset=utf-8")
        else:
            await _answer(send, 303, "", (b"location", place.encode()), cookie)

    def _known(self, scope: Scope, headers: dict[bytes, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(_cookie_name(scope))
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._session.encode())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole_body(receive) if scope["method"] not in SAFE_METHODS else b""
        if body is None:
            await _answer(send, 413, TOO_LARGE)
            return
        unread = True

        async def given() -> MutableMapping[str, Any]:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await self._app(scope, given, guarded)


async def _whole_body(receive: Receive) -> bytes | None:
    """All of a request's body; None where it has more than `MAX_BODY` bytes, whatever was announced."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"))


def _token_in(scope: Scope) -> str:
    return dict(_query(scope)).get("token", "")


def _is_foreign(headers: dict[bytes, str]) -> bool:
    """Whether the browser says that another site's page asks, or led here."""
    return headers.get(b"sec-fetch-site", "none") not in OWN_SITES


def _cookie_name(scope: Scope) -> str:
    _host, port = scope["server"]
    return f"{COOKIE}-{port}"


async def _answer(
    send: Send,
    status: int,
    text: str,
    *headers: tuple[bytes, bytes],
    kind: bytes = b"text/plain; charset=utf-8",
) -> None:
    own = (b"content-type", kind)
    await send({"type": "http.response.start", "status": status, "headers": [own, *headers, *HEADERS]})
    await send({"type": "http.response.body", "body": (text + "\n").encode() if text else b""})
