"""The way to a server: what stands in between, and when to ask again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mvc.errors import InvalidInputError, RemoteError
from mvc.remotes.http_way import Patience, find_proxy
from mvc.remotes.schemes import connect, parse_url

HELLO = b'{"version": 1, "checked": false, "connections": 1, "worktree": false}'


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Have a server of HTTP on this machine, whose requests a function answers; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            answer(self)

        def do_CONNECT(self) -> None:
            """Answer."""
            answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answer one request."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("when", [lambda: "2", lambda: formatdate(time.time() + 3, usegmt=True)])
def test_a_server_that_says_when(status, when):
    """Is asked again no earlier."""
    asked: list[float] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            reply(request, status, Retry_After=when())
        else:
            reply(request, 200, HELLO)

    with answering(answer) as url, connect(parse_url(f"{url}/x"), {}) as engine:
        assert engine.capabilities.connections
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1.9


@pytest.mark.parametrize(
    "told",
    [lambda: "61", lambda: "99999999999", lambda: formatdate(time.time() + 86_400, usegmt=True)],
    ids=["seconds", "many seconds", "tomorrow"],
)
def test_a_server_that_wants_too_much(told):
    """Nobody waits for it longer than a minute: it is said at once."""
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        reply(request, 503, Retry_After=told())

    with (
        answering(answer) as url,
        connect(parse_url(f"{url}/x"), {}) as engine,
        pytest.raises(RemoteError, match="503") as refusal,
    ):
        engine.capabilities  # noqa: B018 - it asks
    assert refusal.value.transient
    assert len(asked) == 1


def test_a_minute_is_for_all_tries():
    """And not for each."""
    patience = Patience()
    pauses = []
    for _ in range(3):
        patience.hear({"Retry-After": "25"})
        pauses.append(patience.next())
    assert pauses == [25, 25, None]
    patience.hear({"Retry-After": "soon"})
    assert 0 < (patience.next() or 0) < 10


@pytest.mark.parametrize("told", ["Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 01 Jan 1800 00:00:00 -0000"])
def test_a_date_that_is_over(told):
    """Asks for no pause, and gives no time to wait for what comes after it."""
    patience = Patience()
    patience.hear({"Retry-After": told})
    assert patience.next() == pytest.approx(0.3)
    patience.hear({"Retry-After": "61"})
    assert patience.next() is None


@pytest.mark.parametrize(
    "told",
    [
        "Mon, 01 Jan 2001 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2001 00:00:00 GMT",
    ],
)
def test_a_date_that_is_none(told):
    """Is passed over, whatever numbers it is made of."""
    patience = Patience()
    patience.hear({"Retry-After": told})
    assert patience.next() == pytest.approx(0.3)


def test_a_proxy():
    """Is asked for the server by its whole URL, with name and password of its own; NO_PROXY goes around it."""
    asked: list[tuple[str, str | None]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, request.headers["Proxy-Authorization"]))
        reply(request, 200, HELLO)

    with answering(answer) as url:
        proxy = url.replace("http://", "http://me:s%40cret@")
        with connect(parse_url("http://models.invalid/x"), {"HTTP_PROXY": proxy}) as engine:
            assert engine.capabilities.connections
        assert asked == [("http://models.invalid/x/-/v1/hello", "Basic bWU6c0BjcmV0")]
        around = {"HTTP_PROXY": proxy, "NO_PROXY": "other.example, .invalid"}
        with connect(parse_url("http://models.invalid/x"), around) as engine, pytest.raises(RemoteError) as failure:
            engine.capabilities  # noqa: B018 - it asks
        assert len(asked) == 1
        assert "cret" not in str(failure.value)


def test_a_proxy_on_the_way_to_https():
    """Sees the name of the server, and neither the request nor the token."""
    seen: list[tuple[str, dict[str, str]]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append((f"{request.command} {request.path}", dict(request.headers)))
        reply(request, 403)

    with answering(answer) as url:
        environment = {"https_proxy": url, "MVC_TOKEN": "mvc_" + "x" * 43}
        with connect(parse_url("https://models.invalid/x"), environment) as engine, pytest.raises(RemoteError):
            engine.capabilities  # noqa: B018 - it asks
    assert {line for line, _ in seen} == {"CONNECT models.invalid:443"}
    assert not any("xxxx" in value for _, headers in seen for value in headers.values())


def test_this_machine_is_asked_directly():
    """A proxy would see the token, which goes to this machine without TLS."""
    assert find_proxy("http://127.0.0.1:7333/x", {"HTTP_PROXY": "http://proxy:1"}) is None
    assert find_proxy("http://models.example/x", {"HTTP_PROXY": "http://proxy:1"}) == "http://proxy:1"
    assert find_proxy("https://models.example/x", {"HTTP_PROXY": "http://proxy:1"}) is None


@pytest.mark.parametrize(
    ("rule", "around"),
    [
        ("*", True),
        ("models.example", True),
        (".example", True),
        ("other, example", True),
        ("MODELS.example:8443", True),
        ("models.example:443", False),
        ("dels.example", False),
        ("", False),
    ],
)
def test_what_goes_around(rule, around):
    """Hosts, domains, and hosts with a port."""
    environment = {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": rule}
    assert (find_proxy("https://models.example:8443/x", environment) is None) == around


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://proxy:1",
        "http://",
        "http://proxy:port",
        "http://proxy:0",
        "http://[proxy",
        "http://\u2100:1",
        "http://a proxy:1",
        "http://me:\u20acsecret@proxy:1",
    ],
)
def test_what_is_no_proxy(proxy):
    """Is refused, and not passed over; what it was is not told."""
    with pytest.raises(InvalidInputError, match="HTTPS_PROXY") as refusal:
        connect(parse_url("https://models.example/x"), {"HTTPS_PROXY": proxy})
    assert refusal.value.__cause__ is None
    assert "secret" not in str(refusal.value)
