"""Which hosts the server answers for, and whose pages may post images."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
from starlette.responses import PlainTextResponse

from daad_jax.errors import UserError
from daad_jax.serving.host_check import HostCheck, find_trusted

PAGE = "http://evil.example"


def status_of(app, method, headers):
    """The status of the answer to a request with these headers, a list of pairs."""
    sent = []

    async def send(message):
        sent.append(message)

    encoded = [(key.lower().encode(), value.encode("latin-1")) for key, value in headers]
    scope = {"type": "http", "method": method, "path": "/score", "query_string": b"", "headers": encoded}
    asyncio.run(app(scope, None, send))
    return sent[0]["status"]


def checked(host="127.0.0.1", address="127.0.0.1", hosts=()):
    return HostCheck(PlainTextResponse("in"), find_trusted(host, address, hosts))


LOOPBACK = checked()
ALL_ADDRESSES = checked("0.0.0.0", "0.0.0.0")
NAMED = checked("0.0.0.0", "0.0.0.0", ["Parts.example.com", " other.example."])


@pytest.mark.parametrize(
    ("host", "on_loopback", "on_all_addresses", "with_names"),
    [
        # Monitors and probes ask by IP address.
        ("127.0.0.1:8000", 200, 200, 200),
        ("[::1]:8000", 200, 200, 200),
        ("10.1.2.3:8000", 200, 200, 200),
        ("[fd00::7]", 200, 200, 200),
        ("localhost:8000", 200, 200, 200),
        ("LOCALHOST", 200, 200, 200),
        ("localhost.", 200, 200, 200),
        ("app.localhost:8000", 200, 200, 200),
        # A container has the name of its service.
        ("scorer:8000", 421, 200, 421),
        ("parts.example.com", 421, 200, 200),
        ("PARTS.example.com.:443", 421, 200, 200),
        ("other.example", 421, 200, 200),
        ("evil.example:8000", 421, 200, 421),
        ("parts.example.com.evil.example", 421, 200, 421),
        ("evil.example#127.0.0.1", 421, 200, 421),
        ("127.0.0.1.evil.example", 421, 200, 421),
        ("notlocalhost", 421, 200, 421),
        # These are no hosts.
        ("", 421, 421, 421),
        ("[", 421, 421, 421),
        ("[::1", 421, 421, 421),
    ],
)
def test_hosts(host, on_loopback, on_all_addresses, with_names):
    for app, status in ((LOOPBACK, on_loopback), (ALL_ADDRESSES, on_all_addresses), (NAMED, with_names)):
        assert status_of(app, "POST", [("Host", host)]) == status


def test_a_probe_may_leave_the_host_out_but_give_no_two():
    assert status_of(LOOPBACK, "GET", []) == 200
    assert status_of(LOOPBACK, "GET", [("Host", "127.0.0.1"), ("Host", "evil.example")]) == 421


def test_the_name_of_the_own_address_and_every_name():
    assert status_of(checked("pc7", "127.0.1.1"), "GET", [("Host", "pc7:8000")]) == 200
    every = checked(hosts=["*"])
    assert status_of(every, "POST", [("Host", "evil.example"), ("Origin", PAGE)]) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://127.0.0.1:9000"}, 403),  # a page of another server of this machine
        ({"Origin": PAGE}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": PAGE, "Sec-Fetch-Site": "same-site"}, 403),
        # A proxy has changed Host.
        ({"Origin": "https://parts.example.com", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
@pytest.mark.parametrize("app", [LOOPBACK, ALL_ADDRESSES])
def test_pages_of_others_post_nothing(app, headers, status):
    pairs = [("Host", "127.0.0.1:8000"), *headers.items()]
    assert status_of(app, "POST", pairs) == status
    assert status_of(app, "GET", pairs) == 200  # the browser hides the answer from the page


def test_pages_of_named_hosts_may_post():
    for origin, status in (("https://parts.example.com", 200), ("http://other.example:81", 200), (PAGE, 403)):
        assert status_of(NAMED, "POST", [("Host", "10.1.2.3"), ("Origin", origin)]) == status


@pytest.mark.parametrize("name", ["https://x.example", "x.example:8000", "a b", "", "*.example", "ü.example"])
def test_names_that_are_none(name):
    with pytest.raises(UserError, match="is no name of a host; give names such as"):
        find_trusted("127.0.0.1", "127.0.0.1", ["a.example", name])
