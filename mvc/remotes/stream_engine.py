"""An engine at the other end of streams, each of which carries one request at a time (wire-v1, section 1)."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from queue import LifoQueue
from threading import Lock, Thread
from typing import Final

from mvc.errors import IntegrityError, MalformedError, MvcError, RemoteError
from mvc.objects.canonical import Value, decode
from mvc.objects.fields import array, integer, text
from mvc.remotes.engine import MAX_KEYS, Body, Capabilities, Engine, KeyInfo
from mvc.remotes.keys import check_key, check_prefix, is_key
from mvc.remotes.wire import (
    DIRECT_BYTES,
    LISTED,
    MAX_NUMBER,
    VERSION,
    Aborted,
    BrokenStreamError,
    Stream,
    StreamEndedError,
    body_size,
    error_of,
    pieces,
)

__all__ = ["Channel", "StreamEngine"]

_CONNECTIONS: Final = 4
"""Streams at once: each is a process here and one there."""
_NEAR_CONNECTIONS: Final = 2
"""Streams at once where answers come soon: while what one has brought is put away, the other fills the way. Of a clone
over 1 Gbit/s, starting two more took longer than they saved (benchmarks.remotes)."""
_FAR_SECONDS: Final = 0.02
"""Seconds to an answer from which a remote is far: ssh lets 2 MiB of a stream be under way, which are 100 MB/s then."""


class Channel:
    """A stream to a server, with whatever keeps it up. One thread uses it at a time."""

    stream: Stream

    @abstractmethod
    def explain(self, error: MvcError) -> MvcError:
        """Return what to say of an error of the stream: the way to the other side may know more."""

    @abstractmethod
    def close(self) -> None:
        """End the stream, and what keeps it up. May be repeated."""


class StreamEngine(Engine):
    """Bytes under keys, at the other end of streams.

    Parameters
    ----------
    url : str
        Where, for messages.
    dial : callable
        Opens a channel; nothing has been sent over it.
    """

    def __init__(self, url: str, dial: Callable[[], Channel]) -> None:
        self.url = url
        self._dial = dial
        self._idle: LifoQueue[Channel | None] = LifoQueue()
        for _ in range(_NEAR_CONNECTIONS):
            self._idle.put(None)
        self._more = _CONNECTIONS - _NEAR_CONNECTIONS
        self._soonest = inf
        self._open: set[Channel] = set()
        self._dialled: Channel | None = None
        self._preparing: Thread | None = None
        self._failed: Exception | None = None
        self._closed = False
        self._guard = Lock()
        self._able: Capabilities | None = None

    def prepare(self) -> None:
        """See `Engine.prepare`: one stream is opened, and only then another one dialled: ssh may ask for passwords."""
        if self._preparing is None and not self._open:
            self._preparing = Thread(target=self._prepare, args=(self._idle.get(),), name="mvc-dial", daemon=True)
            self._preparing.start()

    def _prepare(self, channel: Channel | None) -> None:
        """Fill a place for a channel that is empty."""
        try:
            channel = self._greeted()
            with self._guard, suppress(RemoteError):
                self._dialled = None if self._closed else self._dial()
        except Exception as error:  # noqa: BLE001 - for whoever asks first
            self._failed = error
        finally:
            self._idle.put(channel)

    def _prepared(self) -> None:
        """Wait for what was begun, and raise what it has come to."""
        if self._preparing is not None:
            self._preparing.join()
            failed, self._failed = self._failed, None
            if failed is not None:
                raise failed

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        if self._able is None:
            with self._channel():
                pass
        assert self._able is not None, "the hello says it"
        return self._able

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`."""
        check_prefix(prefix)
        with self._channel() as channel:
            self._ask(channel, {"verb": "list", "prefix": prefix})
            count = 0
            found: list[KeyInfo] = []
            for chunk in self._body(channel):
                rows = array(decode(chunk), "listing", most=LISTED)
                count += len(rows)  # those, too, that are no keys: a listing without an end may consist of them
                if not rows or count > MAX_KEYS:
                    raise BrokenStreamError(f"{self.url} lists nothing, or more than {MAX_KEYS:,} keys")
                found += _listed(rows, prefix)
        yield from found

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        check_key(key)
        with self._channel() as channel:
            self._ask(channel, {"verb": "read", "key": key, "offset": offset, "length": length})
            return self._whole_body(channel, length)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        check_key(key)
        with self._channel() as channel:
            result = self._ask(channel, {"verb": "read_all", "key": key, "limit": min(limit, MAX_NUMBER)})
            size = _expect(result, limit)
            return self._whole_body(channel, size)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`."""
        size = body_size(body)
        check_key(key)
        with self._channel() as channel:
            channel.stream.send({"verb": "create", "key": key, "size": size})
            if size > DIRECT_BYTES:
                reply = self._reply(channel)
                if reply.get("status") != "go":
                    return _boolean(reply.get("result"))
            channel.stream.send_body(pieces(body, size))
            return _boolean(self._reply(channel).get("result"))

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        check_key(key)
        with self._channel() as channel:
            return _boolean(self._ask(channel, {"verb": "touch", "key": key}))

    def delete(self, key: str) -> None:
        """See `Engine.delete`."""
        check_key(key)
        with self._channel() as channel:
            self._ask(channel, {"verb": "delete", "key": key})

    def close(self) -> None:
        """See `Engine.close`."""
        with self._guard:
            channels, self._open = self._open, set()
            dialled, self._dialled, self._closed = self._dialled, None, True
        for channel in (*channels, *([dialled] if dialled else ())):
            channel.close()

    def _ask(self, channel: Channel, request: Mapping[str, Value]) -> Value:
        asked = time.monotonic()
        channel.stream.send(request)
        result = self._reply(channel).get("result")
        self._soonest = min(self._soonest, time.monotonic() - asked)
        return result

    def _open_more(self) -> None:
        """Let more streams be opened, once it is known that the remote is far, for whom no open one is left."""
        with self._guard:
            if self._idle.empty() and _FAR_SECONDS <= self._soonest < inf:
                for _ in range(self._more):
                    self._idle.put(None)
                self._more = 0

    def _reply(self, channel: Channel) -> Mapping[str, Value]:
        """Return a reply that tells of no error."""
        reply = channel.stream.receive()
        status = text(reply.get("status"), "status")
        if status == "error":
            raise _ToldError(error_of(reply, self.url))
        if status not in {"ok", "go"}:
            raise MalformedError(f"{self.url} answers with the status {status[:20]!r}")
        return reply

    def _body(self, channel: Channel) -> Iterator[bytes]:
        with self._aborting(channel):
            yield from channel.stream.body(None)

    def _whole_body(self, channel: Channel, size: int) -> bytes:
        with self._aborting(channel):
            return channel.stream.whole_body(size)

    @contextmanager
    def _aborting(self, channel: Channel) -> Iterator[None]:
        """Raise the error by which a body was broken off."""
        try:
            yield
        except Aborted:
            self._reply(channel)
            raise MalformedError(f"{self.url} breaks off, and does not say why") from None

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        """Lend a channel that is greeted. One whose use ended in anything but a told error is closed."""
        self._prepared()
        self._open_more()
        channel = self._idle.get()
        keep = False
        try:
            channel = channel or self._greeted()
            yield channel
            keep = True
        except _ToldError as told:
            keep = channel is not None
            raise told.error from None
        except StreamEndedError:
            error = RemoteError(f"{self.url} closed the stream", transient=True)
            raise (channel.explain(error) if channel else error) from None
        except BrokenStreamError as error:
            raise (channel.explain(error) if channel else error) from error
        finally:
            if channel is not None and not keep:
                self._forget(channel)
            self._idle.put(channel if keep else None)

    def _forget(self, channel: Channel) -> None:
        with self._guard:
            self._open.discard(channel)
        channel.close()

    def _greeted(self) -> Channel:
        with self._guard:
            dialled, self._dialled = self._dialled, None
        channel = dialled or self._dial()
        try:
            self._greet(channel)
        except BaseException:
            channel.close()
            raise
        with self._guard:
            self._open.add(channel)
            closed = self._closed
        if closed:  # while it was being reached
            self._forget(channel)
        return channel

    def _greet(self, channel: Channel) -> None:
        try:
            channel.stream.send_hello()
            version = channel.stream.receive_hello()
            if version != VERSION:
                raise RemoteError(f"{self.url} speaks version {version} of the wire; this release speaks {VERSION}")
            result = self._reply(channel).get("result")
        except _ToldError as told:
            raise told.error from None
        except StreamEndedError:
            raise channel.explain(RemoteError(f"{self.url} does not answer", transient=True)) from None
        except BrokenStreamError as error:
            raise channel.explain(error) from error
        self._able = _capabilities(result)


class _ToldError(Exception):
    """The other side tells of an error; the stream stays of use."""

    def __init__(self, error: MvcError) -> None:
        super().__init__(str(error))
        self.error = error


def _capabilities(value: Value) -> Capabilities:
    if not isinstance(value, Mapping):
        raise MalformedError("the hello of a server does not say what it can do")
    integer(value.get("connections"), "connections", 1, 64)
    return Capabilities(_boolean(value.get("checked")), _CONNECTIONS, _boolean(value.get("worktree")))


def _listed(rows: Sequence[Value], prefix: str) -> Iterator[KeyInfo]:
    for row in rows:
        key, size, modified = array(row, "listed key", (3,))
        name = text(key, "key")
        if is_key(name) and name.startswith(prefix):
            micro = integer(modified, "time", -MAX_NUMBER, MAX_NUMBER)
            yield KeyInfo(name, integer(size, "size", 0, MAX_NUMBER), micro / 1e6)


def _boolean(value: Value) -> bool:
    if not isinstance(value, bool):
        raise MalformedError(f"{value!r:.40} is neither true nor false")
    return value


def _expect(value: Value, limit: int) -> int:
    size = integer(value, "size", 0, MAX_NUMBER)
    if size > limit:
        raise IntegrityError(f"{size:,} bytes come; at most {limit:,} were expected")
    return size
