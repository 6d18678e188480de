"""The contract of engines over HTTP and HTTPS."""

from __future__ import annotations

import pytest

from mvc.errors import RemoteError
from mvc.remotes.http_engine import HttpEngine
from mvc.remotes.keys import head_key
from mvc.remotes.schemes import connect, parse_url
from mvc.server.http import create_app
from mvc.testing.http_server import RawDirectory, RunningServer, make_certificate
from mvc.testing.remotes import RemoteTests


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return a certificate."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a server without TLS, and the directory below which it serves."""
    root = tmp_path_factory.mktemp("plain")
    server = RunningServer(create_app(RawDirectory(root)))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def secure(tmp_path_factory, certificate):
    """Return a server with TLS."""
    server = RunningServer(create_app(RawDirectory(tmp_path_factory.mktemp("secure"))), certificate)
    yield server
    server.stop()


@pytest.mark.slow  # the same as over HTTPS, without TLS
class TestHttp(RemoteTests):
    """The contract, over HTTP."""

    @pytest.fixture(autouse=True)
    def server(self, plain):
        """Have a server."""
        self.base = plain.url

    def connect(self, place):
        """Return an engine on a repository of the server that has the name of the test's directory."""
        return connect(parse_url(f"{self.base}/tests/{place.name.replace('[', '.')}"), {})


class TestHttps(RemoteTests):
    """The contract, over HTTPS."""

    @pytest.fixture(autouse=True)
    def server(self, secure, certificate):
        """Have a server, and its certificate."""
        self.base, self.options = secure.url, {"ca": str(certificate.certificate)}

    def connect(self, place):
        """Return an engine on a repository of the server that has the name of the test's directory."""
        return connect(parse_url(f"{self.base}/tests/{place.name}", self.options), {})


class TestCertificates:
    """They are verified, always."""

    def test_of_nobody_known(self, secure):
        """There is no talk with a server whose certificate nobody signed that is trusted."""
        with connect(parse_url(f"{secure.url}/x"), {}) as engine, pytest.raises(RemoteError, match="CERTIFICATE"):
            engine.touch(head_key(0))

    def test_by_the_environment(self, secure, certificate):
        """As other programs do it."""
        with connect(parse_url(f"{secure.url}/x"), {"SSL_CERT_FILE": str(certificate.certificate)}) as engine:
            assert not engine.touch(head_key(0))

    def test_of_another_host(self, secure, certificate):
        """A certificate is for a host."""
        url = secure.url.replace("127.0.0.1", "localhost")
        with HttpEngine(f"{url}/x", None, str(certificate.certificate)) as engine, pytest.raises(RemoteError):
            engine.touch(head_key(0))
