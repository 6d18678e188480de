"""The frames of a stream between a client and a server: messages, bodies, errors (wire-v1, section 1).

Both sides use this. Nothing is allocated from a length that was not compared with its limit.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

import mvc.errors
from mvc.errors import IntegrityError, MalformedError, MvcError, RemoteError
from mvc.objects.canonical import Value, decode, encode
from mvc.objects.fields import text
from mvc.remotes.engine import Body

__all__ = [
    "ABORT",
    "CHUNK_BYTES",
    "DIRECT_BYTES",
    "HELLO",
    "LISTED",
    "MAGIC",
    "MAX_NUMBER",
    "VERSION",
    "Aborted",
    "BrokenStreamError",
    "Stream",
    "StreamEndedError",
    "body_size",
    "error_of",
    "error_value",
    "pieces",
]

MAGIC: Final = b"\x89MVCW\r\n\x1a"
VERSION: Final = 1
HELLO: Final = Struct("<8sH")
"""Magic, version."""
_LENGTH: Final = Struct("<I")
_MESSAGE_BYTES: Final = 64 << 10
"""Bytes of a message: a verb and a key, or an error of one sentence."""
CHUNK_BYTES: Final = 1 << 20
"""Bytes of a chunk: large against 4 bytes of length, small against memory."""
DIRECT_BYTES: Final = 1 << 20
"""Bytes of a body that is sent without asking whether it is wanted: less than what a round trip costs."""
_PART_BYTES: Final = 256 << 10
"""Bytes that are read in one go: memory for so many is taken however few there are."""
_PIPE_BYTES: Final = 1 << 20
"""Bytes that a pipe may hold: with the usual 64 KiB, both ends wake each other all the time. More takes privileges on
Linux."""
LISTED: Final = 500
"""Keys in a chunk of a listing: 60 KB."""
MAX_NUMBER: Final = 1 << 62
"""Largest offset, length or size."""
ABORT: Final = 0xFFFFFFFF
"""In the place of the length of a chunk: there is no more, and what there was is not whole."""
_TEXT: Final = 4000
"""Characters of a message from the other side that are shown."""

_KINDS: Final[Mapping[str, type[MvcError]]] = {
    kind.kind: kind for kind in vars(mvc.errors).values() if isinstance(kind, type) and issubclass(kind, MvcError)
}


class BrokenStreamError(RemoteError):
    """The stream is of no use any more: the other side is gone, silent, or does not keep to the protocol."""


class StreamEndedError(Exception):
    """The other side has closed the stream where a message could have begun."""


class Aborted(Exception):  # noqa: N818 - no error of its own: the reason follows
    """The sender could not complete a body."""


class Stream:
    """One side of a stream. Not to be shared by threads.

    Parameters
    ----------
    source, sink : int
        Descriptors to read from and to write to.
    name : str
        Of the other side, for messages.
    timeout : float
        Seconds of silence, in either direction, after which the other side is given up.
    """

    def __init__(self, source: int, sink: int, name: str, timeout: float) -> None:
        self._source = source
        self._sink = sink
        self._name = name
        self._timeout = timeout
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(source, select.POLLIN)
        self._writable.register(sink, select.POLLOUT)
        os.set_blocking(sink, False)  # a side that reads nothing would else hold us for ever
        for descriptor in (source, sink):
            _widen(descriptor)

    def send_hello(self, version: int = VERSION) -> None:
        """Send magic and version."""
        self._write(HELLO.pack(MAGIC, version))

    def receive_hello(self) -> int:
        """Return the version of the other side.

        Raises
        ------
        StreamEndedError
            If it closed the stream.
        BrokenStreamError
            If it speaks something else.
        """
        first = self._some(HELLO.size, self._timeout)
        if not first:
            raise StreamEndedError
        while len(first) < HELLO.size and MAGIC.startswith(first[: len(MAGIC)]):
            more = self._some(HELLO.size - len(first), self._timeout)
            if not more:
                break
            first += more
        if len(first) != HELLO.size or HELLO.unpack(first)[0] != MAGIC:
            raise BrokenStreamError(
                f"{self._name} answered {first!r}, which is not how mvc begins",
                hint="is mvc installed there, and does a shell print a greeting?",
            )
        return int(HELLO.unpack(first)[1])

    def send(self, value: Mapping[str, Value]) -> None:
        """Send a message."""
        data = encode(dict(value))
        assert len(data) <= _MESSAGE_BYTES, "what is sent was cut to size"
        self._write(_LENGTH.pack(len(data)), data)

    def receive(self, *, patient: bool = False) -> Mapping[str, Value]:
        """Return a message; if `patient`, it may begin whenever it likes.

        Raises
        ------
        StreamEndedError
            If there is none, and the stream has ended.
        BrokenStreamError
            If it is not one.
        """
        length = self._length(patient=patient)
        if not 0 < length <= _MESSAGE_BYTES:
            raise BrokenStreamError(f"{self._name} sent a message of {length:,} bytes")
        try:
            value = decode(b"".join(self._exactly(length)))
        except MalformedError as error:
            raise BrokenStreamError(f"{self._name} sent a message that is not canonical: {error.message}") from error
        if not isinstance(value, Mapping):
            raise BrokenStreamError(f"{self._name} sent a message that is not a map")
        return value

    def send_body(self, parts: Iterable[bytes | memoryview]) -> None:
        """Send a body; if `parts` raises, the other side is told that it is not whole."""
        try:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), CHUNK_BYTES):
                    chunk = view[start : start + CHUNK_BYTES]
                    self._write(_LENGTH.pack(len(chunk)), chunk)
        except (MvcError, OSError) as error:
            if not isinstance(error, BrokenStreamError):
                self._write(_LENGTH.pack(ABORT))
            raise
        self._write(_LENGTH.pack(0))

    def body(self, size: int | None) -> Iterator[bytes]:
        """Yield the chunks of a body, of `size` bytes if that was said.

        Raises
        ------
        Aborted
            If the sender cannot go on.
        BrokenStreamError
            If it is longer.
        IntegrityError
            If it is shorter.
        """
        for length in self._chunks(size):
            yield b"".join(self._exactly(length))

    def whole_body(self, size: int) -> bytes:
        """Return a body of `size` bytes, which are copied once; errors as of `body`."""
        return b"".join([part for length in self._chunks(size) for part in self._exactly(length)])

    def _chunks(self, size: int | None) -> Iterator[int]:
        """Yield the length of each chunk, whose bytes are to be taken before the next one."""
        left = size
        while (length := self._length()) != 0:
            if length == ABORT:
                raise Aborted
            if length > CHUNK_BYTES or (left is not None and length > left):
                raise BrokenStreamError(f"{self._name} sent a chunk of {length:,} bytes, more than it may")
            if left is not None:
                left -= length
            yield length
        if left:
            raise IntegrityError(f"{self._name} sent {left:,} bytes too few")

    def _length(self, *, patient: bool = False) -> int:
        first = self._some(_LENGTH.size, None if patient else self._timeout)
        if not first:
            raise StreamEndedError
        data = b"".join([first, *self._exactly(_LENGTH.size - len(first))])
        return int(_LENGTH.unpack(data)[0])

    def _exactly(self, count: int) -> Iterator[bytes]:
        """Yield the next `count` bytes as they come."""
        while count:
            part = self._some(min(count, _PART_BYTES), self._timeout)
            if not part:
                raise BrokenStreamError(f"{self._name} closed the stream in the middle of a message", transient=True)
            count -= len(part)
            yield part

    def _some(self, count: int, timeout: float | None) -> bytes:
        """Return some bytes, at most `count`; none at the end of the stream."""
        if not _ready(self._readable, timeout):
            raise BrokenStreamError(f"{self._name} has been silent for {timeout:g} seconds", transient=True)
        try:
            return os.read(self._source, count)
        except ConnectionResetError:
            return b""

    def _write(self, *parts: bytes | memoryview) -> None:
        """Send all of some parts; those that are at hand together, in as few steps as the way takes."""
        views, end = [memoryview(part) for part in parts], time.monotonic() + self._timeout
        while views:
            if not _ready(self._writable, max(0.0, end - time.monotonic())):
                raise BrokenStreamError(f"{self._name} reads nothing for {self._timeout:g} seconds", transient=True)
            try:
                written = os.writev(self._sink, views)
            except BlockingIOError:
                continue
            except OSError as error:
                raise BrokenStreamError(f"{self._name} closed the stream: {error.strerror}", transient=True) from error
            views, end = _behind(views, written), time.monotonic() + self._timeout


def _behind(views: list[memoryview], count: int) -> list[memoryview]:
    """Return what follows the first `count` bytes."""
    while views and count >= len(views[0]):
        count -= len(views[0])
        views = views[1:]
    return [views[0][count:], *views[1:]] if views else views


def _ready(waiting: select.poll, timeout: float | None) -> bool:
    """Wait until a descriptor can be read or written, or has ended; return False if that takes too long."""
    return bool(waiting.poll(None if timeout is None else timeout * 1000))


def _widen(descriptor: int) -> None:
    """Have a pipe hold more; what is none, or may not, stays as it is."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def body_size(body: Body) -> int:
    """Return the bytes of a body."""
    return len(body) if isinstance(body, bytes) else body.stat().st_size


def pieces(body: Body, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a body; IntegrityError if a file has become shorter."""
    if isinstance(body, bytes):
        yield body
        return
    left = size
    with Path(body).open("rb") as file:
        while left and (piece := file.read(min(CHUNK_BYTES, left))):
            left -= len(piece)
            yield piece
    if left:
        raise IntegrityError(f"{body} has become {left:,} bytes shorter")


def error_value(error: MvcError) -> dict[str, Value]:
    """Return a reply that tells of an error."""
    return {
        "status": "error",
        "kind": error.kind,
        "message": error.message[:_TEXT],
        "hint": None if error.hint is None else error.hint[:_TEXT],
        "transient": bool(getattr(error, "transient", False)),
    }


def error_of(reply: Mapping[str, Value], name: str) -> MvcError:
    """Return the error that a reply of `name` tells of."""
    kind, hint = text(reply.get("kind"), "kind"), reply.get("hint")
    message = f"{name}: {_plain(text(reply.get('message'), 'message'))}"
    shown = _plain(hint) if isinstance(hint, str) else None
    made = _KINDS.get(kind, RemoteError)
    if issubclass(made, RemoteError):
        return made(message, hint=shown, transient=reply.get("transient") is True)
    if issubclass(made, mvc.errors.NotFoundError | IntegrityError):
        return made(message, hint=shown)
    return RemoteError(message, hint=shown, transient=reply.get("transient") is True)


def _plain(given: str) -> str:
    """Return text of the other side as a terminal may be shown it."""
    return "".join(sign if sign.isprintable() else "?" for sign in given[:_TEXT])
