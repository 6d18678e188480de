"""Listening: which address may be used how, and the process that answers."""

from __future__ import annotations

import ipaddress
import resource
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from starlette.applications import Starlette

from mvc.errors import InvalidInputError
from mvc.server.access import Repositories, TokenFile
from mvc.server.http import create_app

__all__ = ["Address", "Offer", "parse_address", "run"]

_BACKLOG: Final = 1024
"""Connections that wait to be taken."""
_CONNECTIONS: Final = 8192
"""Connections at once: each that says nothing takes one until its time is up, so a few hundred must not be all."""
_FILES: Final = 3 * _CONNECTIONS
"""Files that the process may have open: a connection, a body that comes over it, and what is read."""
_HEADER_MILLISECONDS: Final = 15_000
"""Time in which the head of a request must have come; between two requests of a connection, too."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Parameters
    ----------
    host : str
        An IP address or a name.
    port : int
        A port.
    certificate, key : Path, optional
        PEM files; both or neither.
    """

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


def parse_address(text: str, certificate: Path | None, key: Path | None, *, insecure: bool = False) -> Address:
    """Return where to listen.

    Raises
    ------
    InvalidInputError
        If `text` is not HOST:PORT, one of certificate and key is missing, or others could listen to what is said:
        beyond this machine, TLS is needed unless it is `insecure`.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidInputError(f"{text!r} is not HOST:PORT")
    if (certificate is None) != (key is None):
        raise InvalidInputError("a certificate and its key go together", hint="--tls-cert FILE --tls-key FILE")
    if certificate is None and not insecure and not _is_loopback(host):
        raise InvalidInputError(
            f"{host} can be reached from elsewhere, where tokens could be read on the way",
            hint="pass --tls-cert and --tls-key; or --insecure, where a proxy in front does TLS",
        )
    return Address(host, int(port), certificate, key)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Offer:
    """What is served; the process that answers makes its application of it.

    Parameters
    ----------
    root : Path
        Directory of the repositories.
    tokens : Path
        File of tokens.
    public : tuple of str
        Repositories that everybody may read.
    largest : int
        Bytes of the largest pack that is taken.
    """

    root: Path
    tokens: Path
    public: tuple[str, ...]
    largest: int


def _application(offer: Offer, *_: object) -> Starlette:
    repositories = Repositories(offer.root, TokenFile(offer.tokens), offer.public, offer.largest)
    return create_app(repositories, offer.largest)


def run(offer: Offer, address: Address) -> None:
    """Answer requests until this process is told to end. One process of its own answers; if it dies, another does."""
    _allow_files(_FILES)
    server = Granian(
        "mvc",
        address.host,
        address.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,  # to find out which of two is spoken, it would wait for ever for the first byte
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=_HEADER_MILLISECONDS),
        log_level=LogLevels.warning,
        log_access=False,
        ssl_cert=address.certificate,
        ssl_key=address.key,
        respawn_failed_workers=True,
    )
    server.serve(target_loader=partial(_application, offer), wrap_loader=False)


def _allow_files(count: int) -> None:
    """Have this process and its children be allowed so many open files, or as many as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
