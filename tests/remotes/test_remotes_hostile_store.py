"""Object stores that answer wrongly, and those of which there is no real one here: what is said on the wire."""

import base64
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mvc.errors import AuthenticationError, IntegrityError, InvalidInputError, RemoteError
from mvc.remotes.keys import head_key, pack_key
from mvc.remotes.obstore_engine import ObstoreEngine, open_bucket
from mvc.remotes.obstore_errors import translated
from mvc.remotes.obstore_stores import PIECE, settings
from mvc.remotes.schemes import parse_url
from mvc.types import ObjectId

PACK = pack_key(ObjectId("a" * 64))
SECRET = "never-to-be-shown-4711"
MODIFIED = {"Last-Modified": "Sun, 22 Nov 2026 16:00:00 GMT", "ETag": '"e"'}


class Server(ThreadingHTTPServer):
    """Answers every request alike, and remembers what was asked."""

    def __init__(self, status, headers, body, endless=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = status, headers, body
        self.endless = endless
        self.sent = 0
        self.requests = []

    @property
    def endpoint(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """See `Server`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_):
        """Say nothing."""

    def answer(self):
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.endless:
            self.end_headers()
            self.pour(body)
        else:
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = "Content-Length" in headers

    def pour(self, body):
        """Send a body for as long as somebody takes it."""
        try:
            while self.server.sent < 100 * PIECE:
                self.wfile.write(body)
                self.server.sent += len(body)
        except OSError:
            pass
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815 as the base class wants them


@contextmanager
def answering(status, headers=None, body=b"", *, endless=False) -> Iterator[Server]:
    """Run a server."""
    with Server(status, headers or {}, body, endless) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def s3(server) -> ObstoreEngine:
    """Return an engine on a server of S3."""
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": server.endpoint}
    return open_bucket(parse_url("s3://bucket/models"), environment)


class TestWrongAnswers:
    """None is believed, and none fills the memory."""

    def test_more_bytes_than_were_asked_for(self):
        """Are not read to their end."""
        headers = {**MODIFIED, "Content-Range": "bytes 0-9/1000000", "Content-Length": str(1 << 40)}
        with answering(206, headers, bytes(1 << 20), endless=True) as server, pytest.raises(IntegrityError):
            s3(server).read(PACK, 0, 10)
        assert server.sent < 10 * PIECE

    def test_fewer_bytes_than_were_promised(self):
        """Are an error."""
        headers = {**MODIFIED, "Content-Range": "bytes 0-9/10", "Content-Length": "5"}
        with answering(206, headers, b"12345") as server, pytest.raises(IntegrityError):
            s3(server).read(PACK, 0, 10)

    def test_another_range(self):
        """Is no answer."""
        headers = {**MODIFIED, "Content-Range": "bytes 5-14/100"}
        with answering(206, headers, b"1234567890") as server, pytest.raises((IntegrityError, RemoteError)):
            s3(server).read(PACK, 0, 10)

    def test_a_size_beyond_the_limit(self):
        """Is refused before it is read."""
        headers = {**MODIFIED, "Content-Length": str(1 << 40)}
        with answering(200, headers, b"x") as server, pytest.raises(IntegrityError, match="more than"):
            s3(server).read_all(PACK, 1000)

    @pytest.mark.parametrize("body", [b"", b"<Error><Code>", b"\xff\xfe", b"<ListBucketResult>"])
    def test_a_listing_that_is_none(self, body):
        """Is a failure of the remote."""
        with answering(200, {}, body) as server, pytest.raises(RemoteError):
            list(s3(server).list("packs/"))

    @pytest.mark.parametrize(
        ("status", "kind", "transient"),
        [
            (400, RemoteError, False),
            (401, AuthenticationError, False),
            (403, AuthenticationError, False),
            (429, RemoteError, True),
            (501, RemoteError, True),
        ],
    )
    def test_statuses(self, status, kind, transient):
        """What can be tried again is told from what cannot; what the other side says beyond a code is not repeated."""
        body = f"<Error><Code>SomeCode</Code><Message>{SECRET}</Message></Error>".encode()
        with answering(status, {"X-Secret": SECRET}, body) as server, pytest.raises(kind, match="SomeCode") as caught:
            s3(server).create(PACK, b"x")
        assert caught.value.transient is transient
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_a_code_that_is_none(self):
        """Is not repeated either."""
        error = OSError(f"status code: 400 <Code>{SECRET}</Code>")
        assert translated(error, PACK, "s3://b").message == f"{PACK} of s3://b: it answered 400"


class TestOnTheWire:
    """Conditions as each store wants them; there is no real one of Google or Azure here."""

    @pytest.mark.parametrize(
        ("url", "environment", "endpoint", "header", "value", "status"),
        [
            ("s3://bucket/models", {"AWS_SKIP_SIGNATURE": "true"}, "AWS_ENDPOINT_URL", "if-none-match", "*", 412),
            (
                "gs://bucket/models",
                {"GOOGLE_BEARER_TOKEN": SECRET},
                "GOOGLE_ENDPOINT_URL",
                "x-goog-if-generation-match",
                "0",
                412,
            ),
            (
                "az://bucket/models",
                {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_KEY": base64.b64encode(SECRET.encode()).decode()},
                "AZURE_ENDPOINT_URL",
                "if-none-match",
                "*",
                409,
            ),
        ],
    )
    def test_creating(self, url, environment, endpoint, header, value, status):
        """One request, with the condition, to the path of the URL; "it exists" is an answer."""
        with answering(status) as server:
            engine = open_bucket(parse_url(url), {**environment, endpoint: server.endpoint})
            assert not engine.create(head_key(0), b"x" * 65)
        ((command, path, headers),) = server.requests
        assert command == "PUT"
        assert path.split("?")[0].endswith(f"bucket/models/{head_key(0)}") or "models%2F" in path
        assert {name.lower(): text for name, text in headers.items()}[header] == value

    @pytest.mark.parametrize("url", ["s3://b/p", "gs://b/p", "az://b/p"])
    def test_without_credentials(self, url):
        """Nothing is tried, unless the machine is said to have a role."""
        with pytest.raises(AuthenticationError, match="no credentials"):
            settings(parse_url(url), {"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "half of it"})
        assert "secret_access_key" not in settings(parse_url(url, {"credentials": "machine"}), {})


class TestSettings:
    """What users may get wrong."""

    @pytest.mark.parametrize(
        "endpoint",
        [f"http://u:{SECRET}@host", f"ftp://{SECRET}", SECRET, "http://", f"https://h/?k={SECRET}", "http://["],
    )
    def test_endpoints(self, endpoint):
        """Are plain addresses, and what else is given is not repeated."""
        with pytest.raises(InvalidInputError) as caught:
            open_bucket(parse_url("s3://b/p", {"endpoint": endpoint}), {"AWS_SECRET_ACCESS_KEY": "x"})
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_the_endpoint_of_a_remote_comes_before_that_of_the_environment(self):
        """The remote knows better."""
        url = parse_url("s3://b/p", {"endpoint": "https://a", "region": "eu-west-1"})
        environment = {"AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": "https://b", "AWS_REGION": "us-west-2"}
        assert settings(url, environment)["endpoint"] == "https://a"
        assert settings(url, environment)["region"] == "eu-west-1"

    @pytest.mark.parametrize("path", ["a//b", "a/../b", ".", "/a", "a/./b", ".."])
    def test_paths(self, path):
        """Have parts that are names."""
        with pytest.raises(InvalidInputError):
            open_bucket(parse_url(f"s3://bucket/{path}"), {"AWS_SECRET_ACCESS_KEY": "x"})

    @pytest.mark.parametrize(
        ("url", "environment"),
        [
            ("gs://b/p", {"GOOGLE_SERVICE_ACCOUNT_KEY": f'{{"private_key": "{SECRET}"}}'}),
            ("gs://b/p", {"GOOGLE_APPLICATION_CREDENTIALS": f"/nowhere/{SECRET}"}),
            ("az://b/p", {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_KEY": f"{SECRET}!"}),
            ("az://b/p", {"AZURE_STORAGE_SAS_TOKEN": SECRET}),
        ],
    )
    def test_settings_that_obstore_refuses(self, url, environment):
        """Are not repeated."""
        with pytest.raises((InvalidInputError, RemoteError)) as caught:
            open_bucket(parse_url(url), environment).read_all(PACK, 10)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
