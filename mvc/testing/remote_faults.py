"""Remotes that fail to order, and remotes that lie: engines around another engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, Literal, TypeVar

from mvc.errors import IntegrityError, NotFoundError, RemoteError
from mvc.remotes.engine import Body, Capabilities, Engine, KeyInfo

__all__ = ["CUT_MODES", "Cut", "CutEngine", "CutMode", "Death", "HostileEngine", "Lies"]

T = TypeVar("T")

CutMode = Literal["before", "after", "half", "death"]
CUT_MODES: Final[tuple[CutMode, ...]] = ("before", "after", "half", "death")


class Death(BaseException):
    """The process has ended here: no handler of `Exception` runs, and nothing more gets to the remote."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which request fails, and how.

    Parameters
    ----------
    request : int
        Counted from 1.
    mode : {"before", "after", "half", "death"}
        ``before``: it never gets there. ``after``: it is done, and the answer is lost. ``half``: a body arrives by
        half, and is not visible; a list ends early with an error; of what is read nothing is returned. ``death``: as
        before, and so do all requests after it.
    """

    request: int
    mode: CutMode


class CutEngine(Engine):
    """An engine that counts what goes through it, and of which one request may fail.

    Parameters
    ----------
    engine : Engine
        The one that is asked.
    cut : Cut, optional
        What fails.

    Attributes
    ----------
    requests : Counter of str
        By method.
    sent, received : int
        Bytes of bodies that were to be created, and that were read.
    log : list of str
        Method and key, or prefix, of each request.
    was_cut : bool
        Whether the request came.
    """

    def __init__(self, engine: Engine, cut: Cut | None = None) -> None:
        self.url = engine.url
        self.requests: Counter[str] = Counter()
        self.sent = self.received = 0
        self.log: list[str] = []
        self.was_cut = False
        self._engine = engine
        self._cut = cut
        self._lock = Lock()

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine."""
        return self._engine.capabilities

    @property
    def total(self) -> int:
        """Requests so far."""
        return self.requests.total()

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`; a request when it is called, not when the first key is taken."""
        cut = self._count("list", prefix)
        items = self._engine.list(prefix)
        if cut is None:
            return items
        found = list(items)
        return self._torn(found[: len(found) // 2] if cut == "half" else found)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        return self._read(lambda: self._engine.read(key, offset, length), "read", key)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        return self._read(lambda: self._engine.read_all(key, limit), "read_all", key)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`."""
        cut = self._count("create", key)
        with self._lock:
            self.sent += body.stat().st_size if isinstance(body, Path) else len(body)
        if cut == "half":
            raise self._lost()
        done = self._engine.create(key, body)
        return self._answer(cut, done)

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        cut = self._count("touch", key)
        return self._answer(cut, self._engine.touch(key))

    def delete(self, key: str) -> None:
        """See `Engine.delete`."""
        cut = self._count("delete", key)
        self._engine.delete(key)
        self._answer(cut, None)

    def _read(self, ask: Callable[[], bytes], method: str, key: str) -> bytes:
        cut = self._count(method, key)
        data = ask()
        with self._lock:
            self.received += len(data)
        return self._answer(cut, data)

    def _count(self, method: str, key: str) -> CutMode | None:
        """Count a request; raise, or return how what comes back of it is to fail."""
        with self._lock:
            self.requests[method] += 1
            self.log.append(f"{method} {key}")
            now = self._cut is not None and self.total == self._cut.request
            self.was_cut |= now
            if self._cut is None or not self.was_cut:
                return None
            mode = self._cut.mode
        if mode == "death":
            raise Death
        if now and mode == "before":
            raise self._lost()
        return mode if now else None

    def _answer(self, cut: CutMode | None, answer: T) -> T:
        if cut is not None:
            raise self._lost()
        return answer

    def _torn(self, items: Iterable[KeyInfo]) -> Iterator[KeyInfo]:
        yield from items
        raise self._lost()

    def _lost(self) -> RemoteError:
        return RemoteError(f"the connection to {self.url} was cut", transient=True)


@dataclass(frozen=True)
class Lies:
    """What a remote says instead of the truth.

    Parameters
    ----------
    bodies : mapping of str to callable
        Beginning of keys -> what becomes of all bytes of such a key.
    listing : callable, optional
        Given a prefix and the true list, returns what is listed.
    gone : tuple of str
        Keys that begin so are listed, and cannot be read.
    """

    bodies: Mapping[str, Callable[[str, bytes], bytes]] = field(default_factory=dict)
    listing: Callable[[str, Iterator[KeyInfo]], Iterable[KeyInfo]] = field(default=lambda _, items: items)
    gone: tuple[str, ...] = ()


class HostileEngine(Engine):
    """An engine of which the other side lies; what is not lied about is as in `engine`.

    Parameters
    ----------
    engine : Engine
        The truth.
    lies : Lies
        What is told instead.
    """

    def __init__(self, engine: Engine, lies: Lies) -> None:
        self.url = engine.url
        self._engine = engine
        self._lies = lies

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine."""
        return self._engine.capabilities

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """List what is not there, or with other sizes; nothing is filtered, as a careless engine would."""
        yield from self._lies.listing(prefix, self._engine.list(prefix))

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Return a range of what the body has become, of the right length."""
        data = self._body(key)[offset : offset + length]
        if len(data) != length:
            raise IntegrityError(f"{key} has no {length} bytes at {offset}")
        return data

    def read_all(self, key: str, limit: int) -> bytes:
        """Return what the body has become."""
        data = self._body(key)
        if len(data) > limit:
            raise IntegrityError(f"{key} has more than {limit} bytes")
        return data

    def create(self, key: str, body: Body) -> bool:
        """Create it in truth."""
        return self._engine.create(key, body)

    def touch(self, key: str) -> bool:
        """Touch it in truth."""
        return self._engine.touch(key)

    def delete(self, key: str) -> None:
        """Delete it in truth."""
        self._engine.delete(key)

    def _body(self, key: str) -> bytes:
        if key.startswith(self._lies.gone):
            raise NotFoundError(f"there is no {key}")
        data = self._engine.read_all(key, 1 << 40)
        for prefix, change in self._lies.bodies.items():
            if key.startswith(prefix):
                data = change(key, data)
        return data
