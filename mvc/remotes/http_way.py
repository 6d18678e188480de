"""The way to a server: by which proxy, as variables of the environment say, and how long to wait before another try."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

import urllib3

from mvc.errors import InvalidInputError

__all__ = ["LOOPBACK", "Patience", "find_proxy", "make_pool"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""This machine: what goes there never takes a proxy, which would see tokens."""
_PAUSE: Final = 0.3
"""Seconds before the second try; each further one waits twice as long."""
_MOST_WAITED: Final = 60.0
"""Seconds in all that a server may have a client wait for one request (``Retry-After``)."""


class Patience:
    """How long to wait before the next try of one request."""

    def __init__(self) -> None:
        self._left = _MOST_WAITED
        self._told: float | None = None
        self._tries = 0

    def hear(self, headers: Mapping[str, str]) -> None:
        """Take note of when the other side wants to be asked again (RFC 9110, section 10.2.3)."""
        self._told = _seconds(headers.get("Retry-After", ""))

    def next(self) -> float | None:
        """Return the seconds to wait; None if the other side asks for more than is left."""
        pause, told = math.ldexp(_PAUSE, self._tries), self._told or 0.0
        self._tries, self._told = self._tries + 1, None
        if told > self._left:
            return None
        self._left -= told
        return max(pause, told)


def _seconds(text: str) -> float | None:
    """Return the seconds from now on that a header states, at least 0; None if it states none."""
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) < 10 else math.inf
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def find_proxy(url: str, environment: Mapping[str, str]) -> str | None:
    """Return the proxy by which a URL is reached, as ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` say, or None.

    They may be in lower case, too.

    Examples
    --------
    >>> find_proxy("https://models.example/a", {"HTTPS_PROXY": "http://proxy:3128"})
    'http://proxy:3128'
    >>> find_proxy("https://models.example/a", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"})
    """
    parts = urlsplit(url)
    known = {name.lower(): value for name, value in environment.items() if value}
    host, place = parts.hostname or "", parts.netloc.lower()
    rules = [rule.strip().lower().removeprefix(".") for rule in known.get("no_proxy", "").split(",")]
    excepted = any(rule in {"*", host, place} or (rule and host.endswith(f".{rule}")) for rule in rules)
    return None if excepted or host in LOOPBACK else known.get(f"{parts.scheme}_proxy")


def make_pool(
    proxy: str | None, context: ssl.SSLContext | None, connections: int, timeout: urllib3.Timeout
) -> urllib3.PoolManager:
    """Return connections, by a proxy if there is one; https goes through it as through a tunnel, unread.

    Raises
    ------
    InvalidInputError
        If it is no proxy of HTTP.
    """
    if proxy is None:
        return urllib3.PoolManager(ssl_context=context, maxsize=connections, block=True, timeout=timeout, retries=False)
    try:
        address, headers = _split_proxy(proxy)
        return urllib3.ProxyManager(
            address,
            proxy_headers=headers,
            ssl_context=context,
            maxsize=connections,
            block=True,
            timeout=timeout,
            retries=False,
        )
    except ValueError:  # of the library, too: of these, some quote the password
        raise InvalidInputError(
            "HTTPS_PROXY or HTTP_PROXY does not name a proxy of HTTP", hint="like http://proxy.example:3128"
        ) from None


def _split_proxy(proxy: str) -> tuple[str, dict[str, str]]:
    """Return the address of a proxy, and the headers that let us in; ValueError if it is no proxy of HTTP."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("not a proxy of HTTP")
    given = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", dict(urllib3.make_headers(proxy_basic_auth=given))
