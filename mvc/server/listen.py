"""Listening: which address may be used how, and the process that answers."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from starlette.applications import Starlette

from mvc.errors import InvalidInputError
from mvc.server.access import Repositories, TokenFile
from mvc.server.http import create_app

__all__ = ["Address", "Offer", "parse_address", "run"]

_BACKLOG = 128
"""Connections that wait to be taken."""


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
    server = Granian(
        "mvc",
        address.host,
        address.port,
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=_BACKLOG,
        log_level=LogLevels.warning,
        log_access=False,
        ssl_cert=address.certificate,
        ssl_key=address.key,
        respawn_failed_workers=True,
    )
    server.serve(target_loader=partial(_application, offer), wrap_loader=False)
