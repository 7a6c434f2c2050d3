"""Refuses what web pages of strangers send through the browser of a user.

A browser can reach servers that a stranger cannot reach, for instance on its own machine. A page of the
stranger can attack through the browser in two ways:

- DNS rebinding: the stranger lets the name of his page lead to this server. For the browser, the server is
  then a part of the page, and the page may read all answers. The header Host has the name of the page.
- A page posts images to this server. It cannot read the answers, but the images take time, and they change
  the meters. The browser names the page in the header Origin.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from daad_jax.errors import UserError

EVERY_NAME = "*"  # in --hosts
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing
OWN_PAGE = ("same-origin", "none")  # values of Sec-Fetch-Site; "none": no page asks, but the user
MAX_SHOWN = 100  # characters of a header that an error repeats
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


class Trusted(NamedTuple):
    """Names in lower case. `EVERY_NAME` stands for all.

    Attributes:
        hosts: the names that the server answers for.
        pages: the hosts whose pages may post images.
    """

    hosts: frozenset[str]
    pages: frozenset[str]


class HostCheck:
    """Wraps an application. A request for an unknown host gets status 421, and a foreign page's post 403.

    IP addresses and localhost are always known: no stranger can let them lead elsewhere. Monitors, which ask
    by IP address, need no name. Programs that are no browsers send no Origin, and may post.

    Args:
        app: the application.
        trusted: names to answer.
    """

    def __init__(self, app: ASGIApp, trusted: Trusted) -> None:
        self._app, self._trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if problem := self._find_unknown_host(headers):
                app = JSONResponse({"error": problem}, 421)
            elif problem := self._find_foreign_page(scope["method"], headers):
                app = JSONResponse({"error": problem}, 403)
        await app(scope, receive, send)

    def _find_unknown_host(self, headers: Headers) -> str:
        """Returns why the host is refused; "" if the request may go on."""
        given = headers.getlist("host")
        hosts = self._trusted.hosts
        if not given:  # only HTTP/1.0 has no Host, and browsers do not use it
            return ""
        name = name_of_host(given[0])
        is_known = EVERY_NAME in hosts or name in hosts or _leads_nowhere_else(name)
        if len(given) == 1 and name and is_known:
            return ""
        return (
            f"Host: {given[0][:MAX_SHOWN]}: the server does not answer for this name; if the name is right, "
            "start the server with --hosts=NAME"
        )

    def _find_foreign_page(self, method: str, headers: Headers) -> str:
        """Returns why the page that asks is refused; "" if the request may go on."""
        origin = headers.get("origin")
        if method in SAFE_METHODS or origin is None:
            return ""
        # A proxy may have changed Host, but the browser has compared the addresses itself.
        if headers.get("sec-fetch-site") in OWN_PAGE:
            return ""
        address = origin.partition("://")[2]
        if address and address == headers.get("host"):
            return ""
        if {name_of_host(address), EVERY_NAME} & self._trusted.pages:
            return ""
        return (
            f"Origin: {origin[:MAX_SHOWN]}: pages of other servers may not post images; if this page is "
            "yours, start the server with --hosts=NAME, NAME being the host of the page"
        )


def find_trusted(host: str, address: str, hosts: Sequence[str]) -> Trusted:
    """Returns the names that a server trusts.

    Without `hosts`, a server that other machines reach answers for every name, because it cannot know its
    names: a container has the name of its service.

    Args:
        host: the value of --host.
        address: the IP address that the server listens at.
        hosts: the values of --hosts.

    Raises:
        UserError: a value of --hosts is no name.
    """
    names = {name.strip().lower().removesuffix(".") for name in hosts}
    for name in names - {EVERY_NAME}:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"--hosts={','.join(hosts)}: {name!r} is no name of a host; give names such as "
                "parts.example.com, without http:// and port, and separate them by commas"
            )
    is_open = not names and not ipaddress.ip_address(address).is_loopback
    return Trusted(frozenset({*names, EVERY_NAME if is_open else host.lower()}), frozenset(names))


def name_of_host(header: str) -> str:
    """Returns the name or the IP address in a header Host, in lower case and without port; "" if none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _leads_nowhere_else(name: str) -> bool:
    """Whether nobody can let this host lead to another machine: an IP address, or localhost."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
