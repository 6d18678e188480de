"""Remotes that ``mvc serve`` offers over HTTP (wire-v1, section 2)."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError
from urllib3.response import BaseHTTPResponse

from mvc.errors import (
    AuthenticationError,
    IntegrityError,
    InvalidInputError,
    MalformedError,
    MvcError,
    NotFoundError,
    RemoteError,
)
from mvc.objects.canonical import Value
from mvc.objects.fields import array, integer, text
from mvc.remotes.engine import MAX_KEYS, Body, Capabilities, Engine, KeyInfo
from mvc.remotes.http_way import LOOPBACK, Patience, find_proxy, make_pool
from mvc.remotes.keys import check_key, check_prefix, is_key
from mvc.remotes.schemes import RemoteUrl
from mvc.remotes.tokens import find_token
from mvc.remotes.wire import DIRECT_BYTES, MAX_NUMBER, body_size, error_of
from mvc.version import __version__

__all__ = ["HttpEngine", "open_http"]

_CONNECTIONS: Final = 8
"""Requests at once."""
_CONNECT_SECONDS: Final = 15.0
_SILENCE: Final = 600.0
"""Seconds that an answer may take to begin or to go on: a server checks packs before it answers."""
_TRIES: Final = 4
"""Times that what may be repeated is tried."""
_ERROR_BYTES: Final = 64 << 10
_PAGE_BYTES: Final = 1 << 20
"""Bytes of an error and of a page of a listing."""
_PAGE_KEYS: Final = 1000
_PIECE: Final = 8 << 20
"""Bytes that are received in one go: what fits is not copied, and what is claimed is not believed beyond that."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Answer:
    """Status and headers of an answer, and how to read what it says."""

    status: int
    headers: Mapping[str, str]
    response: BaseHTTPResponse

    def read(self, limit: int) -> bytes:
        """Return the body, of which there are at most `limit` bytes; IntegrityError if there are more."""
        pieces, left = [], limit + 1
        while piece := self.response.read(min(_PIECE, left), decode_content=False):
            pieces.append(piece)
            left -= len(piece)
            if not left:
                raise IntegrityError(f"more than {limit:,} bytes come")
        return b"".join(pieces)


class HttpEngine(Engine):
    """Bytes under keys, at a server.

    Parameters
    ----------
    url : str
        Of the repository.
    token : str, optional
        To be let in with. It is in no message and no representation of anything here.
    authorities : str, optional
        File of certificates that are trusted instead of the system's.
    proxy : str, optional
        URL of the proxy by which the server is reached; its name and password are in no message either.
    """

    def __init__(self, url: str, token: str | None, authorities: str | None = None, proxy: str | None = None) -> None:
        self.url = url.rstrip("/")
        base = urlsplit(self.url)
        self._base = f"{base.scheme}://{base.netloc}{quote(base.path, safe='/')}/-/v1/"
        self._headers = {"User-Agent": f"mvc/{__version__}", "Accept-Encoding": "identity"}
        if token is not None:
            if base.scheme != "https" and base.hostname not in LOOPBACK:
                raise AuthenticationError(f"a token is not sent to {base.netloc} in the clear", hint="use https://")
            self._headers["Authorization"] = f"Bearer {token}"
        context = _context(authorities) if base.scheme == "https" else None
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_SILENCE)
        self._pool = make_pool(proxy, context, _CONNECTIONS, timeout)
        self._able: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        if self._able is None:
            told = self._document("hello", _ERROR_BYTES)
            if told.get("version") != 1:
                raise RemoteError(f"{self.url} speaks version {told.get('version')!r:.20}; this release speaks 1")
            self._able = Capabilities(told.get("checked") is True, _CONNECTIONS, told.get("worktree") is True)
        return self._able

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`."""
        check_prefix(prefix)
        after, count = "", 0
        while True:
            page = self._document("keys?" + urlencode({"prefix": prefix, "after": after}), _PAGE_BYTES)
            rows = array(page.get("keys"), "listing", most=_PAGE_KEYS)
            count += len(rows)  # those, too, that are no keys: a listing without an end may consist of them
            if count > MAX_KEYS:
                raise IntegrityError(f"{self.url} lists more than {MAX_KEYS:,} keys")
            yield from _listed(rows, prefix)
            following = page.get("next")
            if following is None:
                return
            if not rows or not isinstance(following, str) or following <= after:
                raise IntegrityError(f"{self.url} lists pages that lead nowhere")
            after = following

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        if not length:
            self._size(key)
            return b""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}

        def receive(answer: _Answer) -> bytes:
            """Take exactly what was asked for."""
            if answer.status == 416:
                raise IntegrityError(f"{key} of {self.url} has no byte {offset:,}")
            body = answer.read(length) if answer.status == 206 else b""
            if len(body) != length:
                raise IntegrityError(f"{key} of {self.url} ends {length - len(body):,} bytes too early")
            return body

        return self._repeat("GET", f"keys/{check_key(key)}", receive, headers, accept=(206, 416))

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""

        def receive(answer: _Answer) -> bytes:
            """Look at the length before the first byte."""
            length = _number(answer.headers.get("Content-Length"))
            if length > limit:
                raise IntegrityError(f"{key} of {self.url} has {length:,} bytes; at most {limit:,} were expected")
            body = answer.read(length)
            if len(body) != length:
                raise RemoteError(f"{self.url} broke off", transient=True)
            return body

        return self._repeat("GET", f"keys/{check_key(key)}", receive)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`."""
        size = body_size(body)
        path = f"keys/{check_key(key)}"
        if size > DIRECT_BYTES and self._exists(path):
            return False
        headers = {"If-None-Match": "*", "Content-Length": str(size), "Content-Type": "application/octet-stream"}
        return self._repeat("PUT", path, lambda answer: answer.status == 201, headers, body, accept=(201, 412))

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        told = self._repeat("POST", f"touch/{check_key(key)}", _json(_ERROR_BYTES))
        return told.get("touched") is True

    def delete(self, key: str) -> None:
        """See `Engine.delete`. Not repeated: the second answer would be that there is nothing."""
        path = f"keys/{check_key(key)}"
        self._once("DELETE", path, _nothing, {}, None, (204,), Patience())

    def close(self) -> None:
        """See `Engine.close`."""
        self._pool.clear()

    def _size(self, key: str) -> int:
        path = f"keys/{check_key(key)}"
        return self._repeat("HEAD", path, lambda answer: _number(answer.headers.get("Content-Length")))

    def _exists(self, path: str) -> bool:
        return self._repeat("HEAD", path, lambda answer: answer.status == 200, accept=(200, 404))

    def _document(self, path: str, limit: int) -> Mapping[str, Any]:
        return self._repeat("GET", path, _json(limit))

    def _repeat(
        self,
        method: str,
        path: str,
        receive: Callable[[_Answer], _T],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        accept: tuple[int, ...] = (200,),
    ) -> _T:
        """Ask for what may be asked for again, until there is an answer, and return what `receive` makes of it."""
        patience = Patience()
        for _ in range(_TRIES - 1):
            try:
                return self._once(method, path, receive, headers or {}, body, accept, patience)
            except RemoteError as error:
                if not error.transient or (pause := patience.next()) is None:
                    raise
                time.sleep(pause)
        return self._once(method, path, receive, headers or {}, body, accept, patience)

    def _once(
        self,
        method: str,
        path: str,
        receive: Callable[[_Answer], _T],
        headers: Mapping[str, str],
        body: Body | None,
        accept: tuple[int, ...],
        patience: Patience,
    ) -> _T:
        with _opened(body) as content, self._failing():
            response = self._pool.request(
                method,
                self._base + path,
                body=content,
                headers={**self._headers, **headers},
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                patience.hear(response.headers)
                return self._received(response, receive, accept)
            finally:
                if response.length_remaining:  # what was not read is not wanted: this connection is of no use
                    response.close()
                response.release_conn()

    def _received(self, response: BaseHTTPResponse, receive: Callable[[_Answer], _T], accept: tuple[int, ...]) -> _T:
        answer = _Answer(response.status, response.headers, response)
        if response.status not in accept:
            raise self._refused(answer)
        return receive(answer)

    def _refused(self, answer: _Answer) -> MvcError:
        """Return the error that an answer tells of."""
        if 300 <= answer.status < 400:
            target = urlsplit(answer.headers.get("Location", "")).netloc
            where = f" to {target!r}" if target.isprintable() and "@" not in target else ""
            return RemoteError(f"{self.url} redirects{where}, which is not followed", hint="give the URL itself")
        transient = answer.status in {408, 429, 502, 503, 504}
        try:
            told = json.loads(answer.read(_ERROR_BYTES))
            error = error_of(told, self.url) if isinstance(told, dict) else None
        except (ValueError, RecursionError, IntegrityError):
            error = None
        hint = "set MVC_TOKEN, or write a token file: docs/guides/remotes.md"
        if answer.status == 401:
            return AuthenticationError(f"{self.url} does not let us in", hint=hint)
        if error is None:
            kinds: dict[int, type[MvcError]] = {403: AuthenticationError, 404: NotFoundError}
            kind = kinds.get(answer.status, RemoteError)
            message = f"{self.url} answers with status {answer.status}"
            return RemoteError(message, transient=transient) if kind is RemoteError else kind(message)
        return error

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn errors of the way into errors of the remote. Those of the library name hosts, never headers."""
        try:
            yield
        except SSLError as error:
            raise RemoteError(
                f"{self.url}: {error}", hint="option ca, or SSL_CERT_FILE, names other authorities"
            ) from None
        except HTTPError as error:
            raise RemoteError(f"{self.url} cannot be reached: {error}", transient=True) from None
        except OSError as error:
            raise RemoteError(f"{self.url}: {error.strerror or error}", transient=True) from None


@contextmanager
def _opened(body: Body | None) -> Iterator[bytes | IO[bytes] | None]:
    if body is None or isinstance(body, bytes):
        yield body
        return
    with body.open("rb") as file:
        yield file


def _context(authorities: str | None) -> ssl.SSLContext:
    """Return a context that verifies certificates and names of hosts, always."""
    try:
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInputError(f"{authorities} is no file of certificates: {error}") from error


def _nothing(_: _Answer) -> None:
    return


def _json(limit: int) -> Callable[[_Answer], Mapping[str, Any]]:
    def receive(answer: _Answer) -> Mapping[str, Any]:
        """Return a document that is a map."""
        try:
            told = json.loads(answer.read(limit))
        except (ValueError, RecursionError) as error:
            raise MalformedError("what is not mvc serve answers") from error
        if not isinstance(told, dict):
            raise MalformedError("the answer is not a map")
        return told

    return receive


def _listed(rows: Sequence[Value], prefix: str) -> Iterator[KeyInfo]:
    for row in rows:
        key, size, modified = array(row, "listed key", (3,))
        name = text(key, "key")
        if is_key(name) and name.startswith(prefix):
            micro = integer(modified, "time", -MAX_NUMBER, MAX_NUMBER)
            yield KeyInfo(name, integer(size, "size", 0, MAX_NUMBER), micro / 1e6)


def _number(given: str | None) -> int:
    if given is None or not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise MalformedError("an answer does not say how long it is")
    return int(given)


def open_http(url: RemoteUrl, environment: Mapping[str, str]) -> HttpEngine:
    """Return the engine of a remote that a server offers; see `mvc.remotes.schemes`.

    The option ``ca``, or ``SSL_CERT_FILE``, names a file of certificates to trust; see `find_proxy`.
    """
    authorities = url.options.get("ca") or environment.get("SSL_CERT_FILE")
    proxy = find_proxy(url.text, environment)
    return HttpEngine(url.text, find_token(url.host, environment), authorities, proxy)
