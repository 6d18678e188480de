"""Engines over HTTP: the application that ``mvc serve`` runs (wire-v1, section 2)."""

from __future__ import annotations

import heapq
import logging
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mvc.errors import (
    AuthenticationError,
    IntegrityError,
    InvalidInputError,
    MvcError,
    NotFoundError,
    RemoteError,
)
from mvc.objects.canonical import Value
from mvc.remotes.engine import Body, Engine, KeyInfo
from mvc.remotes.keys import LOOSE, PACKS, check_key, check_prefix
from mvc.remotes.sizes import read_pieces, size_of
from mvc.remotes.wire import DIRECT_BYTES, error_value
from mvc.server.access import Directory, UnknownTokenError, is_name
from mvc.server.limits import LARGEST_PACK, check_size

__all__ = ["Timing", "create_app"]

_LOGGER: Final = logging.getLogger(__name__)
_PAGE: Final = 1000
"""Keys of a page of a listing: 130 KB."""
_BUFFER: Final = 1 << 20
"""Bytes of a body that are gathered before they are written."""
_AFTER: Final = 100
"""Characters of the key behind which a page begins: the longest has 81."""
_CHECKERS: Final = 64
"""Threads that check, or wait for their turn to, of packs and of moves of refs each: those of all repositories. What
takes no lock is answered by others, those of the library, which nothing that is being checked keeps."""
_WAITING: Final = 16
"""Requests of one repository that are checked or wait for it, of packs and of moves of refs each: so many pushes at a
time that more are told to come again later."""
_RETRY_SECONDS: Final = "2"
"""After which they may."""
_RANGE: Final = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})")


class Timing(NamedTuple):
    """How slow a body may be.

    Parameters
    ----------
    start : float
        Seconds that everybody has.
    rate : float
        Bytes a second that a body must bring beyond that, measured since it began.
    idle : float
        Seconds in which something of it must come.
    """

    start: float = 60.0
    rate: float = 16 << 10
    idle: float = 60.0


class _Refusal(Exception):  # noqa: N818 - an answer
    """A request is refused with a status of its own."""

    def __init__(self, status: int, error: MvcError) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


class _Lane:
    """Threads for requests that wait for each other, of which one repository may not have all."""

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(_CHECKERS)
        self._waiting: Counter[str] = Counter()

    async def create(self, engine: Engine, name: str, key: str, body: Body) -> bool:
        """Have the engine of a repository create a key, unless too many wait for that already."""
        self.check(name)
        self._waiting[name] += 1
        try:
            return await run_sync(engine.create, key, body, limiter=self._threads)
        finally:
            self._waiting[name] -= 1
            self._waiting += Counter()  # forgets those of which none waits

    def check(self, name: str) -> None:
        """Refuse another request where too many wait."""
        if self._waiting[name] >= _WAITING:
            raise _Refusal(503, RemoteError("too many pushes to this repository at a time", transient=True))


def create_app(directory: Directory, largest: int = LARGEST_PACK, timing: Timing = Timing()) -> Starlette:  # noqa: B008
    """Return the application.

    Parameters
    ----------
    directory : Directory
        Which repositories there are, and who may use them.
    largest : int
        Bytes of the largest pack that is taken.
    timing : Timing
        How slow a body may be.
    """
    server = _Server(directory, largest, timing)
    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", server.answer, methods=methods)])


class _Server:
    """Answers requests. The engines block, and so are used by threads."""

    def __init__(self, directory: Directory, largest: int, timing: Timing) -> None:
        self._directory = directory
        self._largest = largest
        self._timing = timing
        self._packs, self._refs = _Lane(), _Lane()

    async def answer(self, request: Request) -> Response:
        """Answer a request; whatever goes wrong is a status and a document."""
        try:
            return await self._route(request)
        except _Refusal as refusal:
            return _error(refusal.error, refusal.status, self._directory.root)
        except MvcError as error:
            return _error(error, _status(error), self._directory.root)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError:
            _LOGGER.exception("a request failed")
            return _error(
                RemoteError("the server failed: its medium may be full", transient=True), 503, self._directory.root
            )

    async def _route(self, request: Request) -> Response:
        name, separator, rest = request.path_params["path"].partition("/-/v1/")
        if not separator or not is_name(name):
            raise NotFoundError("there is nothing here")
        engine = await run_sync(self._directory.open, name, _token(request))
        verb, _, key = rest.partition("/")
        match request.method, verb, bool(key):
            case "GET", "hello", False:
                return await _hello(engine)
            case "GET", "keys", False:
                return await _list(engine, request)
            case "GET" | "HEAD", "keys", True:
                return await _read(engine, check_key(key), request)
            case "PUT", "keys", True:
                return await self._create(engine, name, check_key(key), request)
            case "POST", "touch", True:
                return JSONResponse({"touched": await run_sync(engine.touch, check_key(key))})
            case "DELETE", "keys", True:
                await run_sync(engine.delete, check_key(key))
                return Response(status_code=204)
        raise NotFoundError("there is nothing here")

    async def _create(self, engine: Engine, name: str, key: str, request: Request) -> Response:
        if request.headers.get("if-none-match") != "*":
            raise _Refusal(428, InvalidInputError("keys are only created: send If-None-Match: *"))
        size = _content_length(request)
        await run_sync(engine.admit, key, 0)  # a body of those who may not write is not taken, however small
        lane = self._packs if key.startswith((PACKS, LOOSE)) else self._refs
        lane.check(name)
        try:
            check_size(key, size, self._largest)
        except MvcError as error:
            raise _Refusal(413, error) from error
        if (await run_sync(engine.info, key)) is not None:
            return Response(status_code=412)
        if size <= DIRECT_BYTES:
            free = await lane.create(engine, name, key, await self._small(request, size))
        else:
            async with self._spooled(await run_sync(self._directory.spool, name), request, size) as file:
                free = await lane.create(engine, name, key, file)
        return Response(status_code=201 if free else 412)

    async def _small(self, request: Request, size: int) -> bytes:
        body = bytearray()
        async for chunk in self._chunks(request, size):
            body += chunk
        return bytes(_whole(body, len(body), size))

    @asynccontextmanager
    async def _spooled(self, spool: Path | None, request: Request, size: int) -> AsyncIterator[Path]:
        """Yield a file with the body, which is gone afterwards."""
        file = await run_sync(_private_file, spool)
        try:
            done, gathered = 0, bytearray()
            async for chunk in self._chunks(request, size):
                gathered += chunk
                done += len(chunk)
                if len(gathered) >= _BUFFER:
                    await run_sync(file.write, bytes(gathered))
                    gathered.clear()
            await run_sync(file.write, bytes(gathered))
            await run_sync(file.flush)
            _whole(b"", done, size)
            yield Path(file.name)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(file.close)

    async def _chunks(self, request: Request, size: int) -> AsyncIterator[bytes]:
        """Yield the parts of a body of at most `size` bytes, as long as it keeps coming, and fast enough."""
        parts, began, done = request.stream(), anyio.current_time(), 0
        while True:
            allowed = self._timing.start + done / self._timing.rate - (anyio.current_time() - began)
            try:
                with anyio.fail_after(max(0.0, min(allowed, self._timing.idle))):
                    chunk = await anext(parts, None)
            except TimeoutError as error:
                raise _Refusal(408, RemoteError("the body comes too slowly", transient=True)) from error
            if chunk is None:
                return
            done += len(chunk)
            if done > size:
                raise _Refusal(413, InvalidInputError("the body is longer than its Content-Length"))
            yield chunk


def _whole(body: bytes | bytearray, done: int, size: int) -> bytes | bytearray:
    if done != size:
        raise IntegrityError(f"{size - done:,} bytes of the body are missing")
    return body


def _private_file(directory: Path | None) -> IO[bytes]:
    return tempfile.NamedTemporaryFile(dir=directory, suffix=".tmp")


def _token(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnknownTokenError("only bearer tokens are known here")
    return token.strip()


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise _Refusal(411, InvalidInputError("a body has a Content-Length"))
    return int(text)


async def _hello(engine: Engine) -> Response:
    able = await run_sync(lambda: engine.capabilities)
    told = {"checked": able.checked, "connections": able.connections, "worktree": able.worktree}
    return JSONResponse({"version": 1, **told})


async def _list(engine: Engine, request: Request) -> Response:
    try:
        prefix = check_prefix(request.query_params.get("prefix", ""))
    except MvcError as error:
        raise _Refusal(400, error) from error
    after = request.query_params.get("after", "")[:_AFTER]
    found = await run_sync(_page, engine, prefix, after)
    rows = [[item.key, item.size, int(item.modified * 1e6)] for item in found[:_PAGE]]
    return JSONResponse({"keys": rows, "next": rows[-1][0] if len(found) > _PAGE else None})


def _page(engine: Engine, prefix: str, after: str) -> list[KeyInfo]:
    behind = (item for item in engine.list(prefix) if item.key > after)
    return heapq.nsmallest(_PAGE + 1, behind, key=lambda item: item.key)


async def _read(engine: Engine, key: str, request: Request) -> Response:
    size = await run_sync(size_of, engine, key)
    if request.method == "HEAD":
        return Response(headers={"Content-Length": str(size), "Accept-Ranges": "bytes"})
    wanted = request.headers.get("range")
    if wanted is None:
        return await _stream(engine, key, 0, size, {})
    match = _RANGE.fullmatch(wanted)
    first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (size, 0)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    return await _stream(engine, key, first, last - first + 1, {"Content-Range": f"bytes {first}-{last}/{size}"})


async def _stream(engine: Engine, key: str, offset: int, length: int, headers: dict[str, str]) -> Response:
    pieces = read_pieces(engine, key, offset, length)
    first = await run_sync(next, pieces)  # what fails at once is a status
    told = {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}
    status = 206 if headers else 200
    return StreamingResponse(_behind(first, pieces), status, told, "application/octet-stream")


def _behind(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _status(error: MvcError) -> int:
    table: tuple[tuple[type[MvcError], int], ...] = (
        (UnknownTokenError, 401),
        (AuthenticationError, 403),
        (NotFoundError, 404),
        (IntegrityError, 422),
    )
    found = next((status for kind, status in table if isinstance(error, kind)), None)
    if found is None and isinstance(error, RemoteError):
        return 503 if error.transient else 409
    return found or 500


def _error(error: MvcError, status: int, root: Path) -> Response:
    document = {name: _hidden(value, root) for name, value in error_value(error).items() if name != "status"}
    told = {401: {"WWW-Authenticate": 'Bearer realm="mvc"'}, 503: {"Retry-After": _RETRY_SECONDS}}
    return JSONResponse(document, status, told.get(status, {}))


def _hidden(value: Value, root: Path) -> Value:
    """Return it without the path of the directory that is served: where that is concerns nobody else."""
    return value.replace(f"{root}/", "").replace(str(root), "the server") if isinstance(value, str) else value
