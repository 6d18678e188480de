"""Listening: which address may be used how, and the loop that runs the application."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from dataclasses import dataclass
from pathlib import Path

from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette

from mvc.errors import InvalidInputError

__all__ = ["Address", "parse_address", "run"]

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


def run(app: Starlette, address: Address) -> None:
    """Answer requests until the process is told to end."""
    server = Server(
        app,
        address.host,
        address.port,
        interface=Interfaces.ASGI,
        websockets=False,
        backlog=_BACKLOG,
        log_access=False,
        ssl_cert=address.certificate,
        ssl_key=address.key,
    )
    asyncio.run(_serve(server))


async def _serve(server: Server) -> None:
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, server.stop)
    await server.serve()
