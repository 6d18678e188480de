"""An engine at the other end of a stream: ``mvc serve --stdio`` (wire-v1, section 1)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple

from mvc.errors import IntegrityError, MalformedError, MvcError, RemoteError
from mvc.objects.canonical import Value, encode
from mvc.objects.fields import integer, record, text
from mvc.remotes.engine import Engine, KeyInfo
from mvc.remotes.keys import check_key, check_prefix
from mvc.remotes.sizes import read_pieces, size_of
from mvc.remotes.wire import (
    DIRECT_BYTES,
    LISTED,
    MAX_NUMBER,
    VERSION,
    Aborted,
    BrokenStreamError,
    Stream,
    StreamEndedError,
    error_value,
)
from mvc.server.limits import check_size

__all__ = ["Opened", "serve_stream"]

_LOGGER = logging.getLogger(__name__)
_KEY_BYTES: Final = 100
"""Bytes of a key or of its beginning: the longest has 81."""
_NUMBERS: Final = ("offset", "length", "limit", "size")
"""Fields that are numbers, in the order in which verbs take them."""
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "list": frozenset({"prefix"}),
    "read": frozenset({"key", "offset", "length"}),
    "read_all": frozenset({"key", "limit"}),
    "create": frozenset({"key", "size"}),
    "touch": frozenset({"key"}),
    "delete": frozenset({"key"}),
}


class Opened(NamedTuple):
    """What is served to a client.

    Parameters
    ----------
    engine : Engine
        The repository, as this client may use it.
    spool : Path, optional
        An existing directory for bodies that are not checked yet, on the medium on which they are to stay; the
        system's own if not given.
    """

    engine: Engine
    spool: Path | None = None


def serve_stream(opening: Callable[[], Opened], stream: Stream, largest: int) -> None:
    """Answer the requests of one client until it closes the stream.

    Parameters
    ----------
    opening : callable
        Opens what is served. An error of it is what the client is told.
    stream : Stream
        The client.
    largest : int
        Bytes of the largest pack that is taken.

    Raises
    ------
    BrokenStreamError, MalformedError
        If the client does not keep to the protocol, or is silent for too long.
    """
    try:
        stream.receive_hello()
        stream.send_hello(VERSION)
        try:
            engine, spool = opening()
        except MvcError as error:
            stream.send(error_value(error))
            return
        with engine:
            able = engine.capabilities
            told = {"checked": able.checked, "connections": able.connections, "worktree": able.worktree}
            stream.send({"status": "ok", "result": told})
            served = _Served(engine, stream, spool, largest)
            while True:
                served.answer(stream.receive(patient=True))
    except StreamEndedError:
        return


class _Served:
    """An engine and its client."""

    def __init__(self, engine: Engine, stream: Stream, spool: Path | None, largest: int) -> None:
        self._engine = engine
        self._stream = stream
        self._spool = spool
        self._largest = largest

    def answer(self, request: Mapping[str, Value]) -> None:
        """Answer a request; whatever goes wrong on this side is told, and the stream stays of use."""
        verb = text(request.get("verb"), "verb")
        if verb not in _FIELDS:
            raise MalformedError(f"the verb {verb[:20]!r} is unknown")
        fields = record({name: value for name, value in request.items() if name != "verb"}, _FIELDS[verb], verb)
        name = text(fields.get("key", fields.get("prefix")), "key", _KEY_BYTES)
        numbers = [integer(fields[field], field, 0, MAX_NUMBER) for field in _NUMBERS if field in fields]
        try:
            getattr(self, f"_{verb}")(name, *numbers)
        except BrokenStreamError:
            raise
        except Aborted:
            self._stream.send(error_value(RemoteError("the body was not completed")))
        except _CutShortError as error:
            self._stream.send(error_value(error.reason))
        except (MvcError, OSError) as error:
            self._stream.send(error_value(_told(error)))

    def _list(self, prefix: str) -> None:
        self._reply(None, _batches(self._engine.list(check_prefix(prefix))))

    def _read(self, key: str, offset: int, length: int) -> None:
        check_key(key)
        if length and offset + length > size_of(self._engine, key):
            raise IntegrityError(f"{key} has not so many bytes")
        self._reply(None, read_pieces(self._engine, key, offset, length))

    def _read_all(self, key: str, limit: int) -> None:
        size = size_of(self._engine, key)
        if size > limit:
            raise IntegrityError(f"{key} has {size:,} bytes; at most {limit:,} were expected")
        self._reply(size, read_pieces(self._engine, key, 0, size))

    def _touch(self, key: str) -> None:
        self._stream.send({"status": "ok", "result": self._engine.touch(check_key(key))})

    def _delete(self, key: str) -> None:
        self._engine.delete(check_key(key))
        self._stream.send({"status": "ok", "result": None})

    def _create(self, key: str, size: int) -> None:
        try:
            check_size(check_key(key), size, self._largest)
            self._engine.admit(key, size)
        except MvcError:
            self._discard(size)
            raise
        if size > DIRECT_BYTES:
            if self._engine.info(key) is not None:
                self._stream.send({"status": "ok", "result": False})
                return
            free = self._create_from_file(key, size)
        else:
            free = self._engine.create(key, b"".join(self._stream.body(size)))
        self._stream.send({"status": "ok", "result": free})

    def _discard(self, size: int) -> None:
        """Read a body that is on its way already and is not wanted."""
        for _ in self._stream.body(size) if size <= DIRECT_BYTES else ():
            pass

    def _create_from_file(self, key: str, size: int) -> bool:
        with tempfile.NamedTemporaryFile(dir=self._spool, suffix=".tmp") as file:  # 0600: nobody else changes it
            self._stream.send({"status": "go"})
            body = self._stream.body(size)
            try:
                for chunk in body:
                    file.write(chunk)
                file.flush()
            except OSError:
                for _ in body:
                    pass
                raise
            return self._engine.create(key, Path(file.name))

    def _reply(self, result: Value, parts: Iterator[bytes]) -> None:
        """Send a reply with a body. What fails before the first part is an error and no reply."""
        first = list(islice(parts, 1))
        self._stream.send({"status": "ok", "result": result})
        try:
            self._stream.send_body(chain(first, parts))
        except BrokenStreamError:
            raise
        except (MvcError, OSError) as error:
            raise _CutShortError(_told(error)) from error


class _CutShortError(Exception):
    """A reply was cut short, and the mark of that was sent."""

    def __init__(self, reason: MvcError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _told(error: Exception) -> MvcError:
    """Return what a client is told of an error: nothing of paths outside of the repository."""
    if isinstance(error, MvcError):
        return error
    _LOGGER.warning("a request failed", exc_info=error)
    return RemoteError("the server failed: its medium may be full", transient=True)


def _batches(found: Iterator[KeyInfo]) -> Iterator[bytes]:
    while batch := list(islice(found, LISTED)):
        rows: list[Value] = [[item.key, item.size, int(item.modified * 1e6)] for item in batch]
        yield encode(rows)
