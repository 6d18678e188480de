"""Servers over HTTP for tests: on a port of 127.0.0.1, with a certificate of their own if wanted."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import threading
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette

from mvc.remotes.posix import PosixEngine
from mvc.testing.ports import free_ports, wait_for_port

__all__ = ["Certificate", "RawDirectory", "RunningServer", "make_certificate"]


class Certificate(NamedTuple):
    """Files of a certificate for one address, which signs itself."""

    certificate: Path
    key: Path


def make_certificate(directory: Path, address: str = "127.0.0.1") -> Certificate:
    """Make one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test of mvc")])
    now = dt.datetime.now(dt.UTC)
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(hosts, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(directory / "cert.pem", directory / "key.pem")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    return files


class RunningServer:
    """An application that answers on a port of 127.0.0.1, run by a thread."""

    def __init__(self, app: Starlette, certificate: Certificate | None = None) -> None:
        (self.port,) = free_ports(1)
        self.scheme = "https" if certificate else "http"
        self._server = Server(
            app,
            "127.0.0.1",
            self.port,
            interface=Interfaces.ASGI,
            log_enabled=False,
            ssl_cert=certificate.certificate if certificate else None,
            ssl_key=certificate.key if certificate else None,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not wait_for_port(self.port):
            raise AssertionError("the server does not listen")

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve())
        self._loop.close()

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join(20)


class RawDirectory:
    """Directories without checks, each as a repository, for the contract suite, whose bodies are made up."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str, token: str | None) -> PosixEngine:  # noqa: ARG002 - nobody is asked
        """Return an engine."""
        (self.root / name).parent.mkdir(exist_ok=True)
        return PosixEngine(self.root / name)

    def spool(self, name: str) -> Path | None:  # noqa: ARG002
        """Return nothing: the system knows a place."""
        return None
