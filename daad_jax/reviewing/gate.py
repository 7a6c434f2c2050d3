"""Keeps strangers out of the review: every request needs the token, and must come from our own page.

Two kinds of strangers can reach the port: other users of the machine, and web pages in the user's browser.
"""

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daad_jax.serving.host_check import name_of_host

OWN_HOSTS = ("127.0.0.1", "localhost", "::1")
PAGE = "/"  # the only address that takes the token from the address bar
SAFE_METHODS = ("GET", "HEAD")
SAME_SITE = ("same-origin", "none")  # "none": the user has typed the address
REFUSED = "This page belongs to a review on this machine. Open the address that the command has printed.\n"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make_token() -> str:
    """Returns a word of 256 random bits, which nobody can guess."""
    return secrets.token_urlsafe(32)


class Gate:
    """Wraps an application. A request without the token gets status 403; a request for another host 421.

    The page takes the token from its address, and sets a cookie that all further requests carry. The cookie
    goes only to this machine, and no script can read it.

    Args:
        app: the application.
        token: the word that `make_token` returned.
        cookie: the name of the cookie. It should contain the port, because browsers share cookies between
            the ports of a machine.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self._app, self._token, self._cookie = app, token.encode(), cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        in_address = scope["path"] == PAGE and self._is_token(_token_of(scope))

        async def send_closed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                given.update(HEADERS)
                given.setdefault("Cache-Control", "no-store")
                if in_address:
                    value = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
                    given.append("Set-Cookie", value)
            await send(message)

        status = self._find_fault(scope, headers, in_address)
        app = PlainTextResponse(REFUSED, status) if status else self._app
        await app(scope, receive, send_closed)

    def _find_fault(self, scope: Scope, headers: Headers, in_address: bool) -> int:
        """Returns the HTTP status for a refused request; 0 if the request may go on."""
        host = headers.get("host", "")
        # DNS rebinding: the name of a foreign page may lead to this machine. Host then has this foreign name.
        if len(headers.getlist("host")) != 1 or name_of_host(host) not in OWN_HOSTS:
            return 421
        is_page = scope["path"] == PAGE and scope["method"] in SAFE_METHODS
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return 403
        if origin is None and scope["method"] not in SAFE_METHODS:
            return 403
        # A page of another port of this machine would send our cookie, too.
        if not is_page and headers.get("sec-fetch-site", "none") not in SAME_SITE:
            return 403
        return 0 if in_address or self._is_token(self._cookie_of(headers)) else 403

    def _cookie_of(self, headers: Headers) -> str:
        try:
            found = SimpleCookie("; ".join(headers.getlist("cookie"))).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self._token)


def _token_of(scope: Scope) -> str:
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10)
    except ValueError:  # too many fields
        return ""
    return query.get("token", [""])[0]
