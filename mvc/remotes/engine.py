"""What a remote is made of: bytes under keys, and one condition that keeps writers apart (remotes-v1, section 2).

Everything that knows of commits, refs and blobs stands above this; an engine only moves bytes. Adding one is a subclass
of `Engine` in a file of its own, a line in `mvc.remotes.schemes`, and a test that subclasses
`mvc.testing.remotes.RemoteTests`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mvc.errors import IntegrityError
from mvc.remotes.keys import MAX_BODY_BYTES, check_key, is_key

__all__ = ["MAX_KEYS", "Body", "Capabilities", "Engine", "KeyInfo"]

MAX_KEYS: Final = 10_000_000
"""Keys of one listing that a client takes: 640 terabytes in packs of 64 MiB; a list without an end is an attack."""

Body = bytes | Path
"""What is stored under a key: some bytes, or all of a file, which is read piece by piece."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, as far as callers plan by it.

    Parameters
    ----------
    checked : bool
        The other side checks packs, operations and moves of refs itself before anybody sees them.
    connections : int
        Requests that are worth having on their way at once.
    worktree : bool
        There is a work tree beside the repository, whose branch is not to be moved from afar.
    """

    checked: bool = False
    connections: int = 1
    worktree: bool = False


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key of a listing.

    Parameters
    ----------
    key : str
        As in remotes-v1, section 1.
    size : int
        Bytes.
    modified : float
        Time of last change, seconds since 1970-01-01T00:00:00Z by the clock of the other side.
    """

    key: str
    size: int
    modified: float


class Engine(ABC):
    """Bytes under keys. All methods may be called by many threads at once.

    Whatever goes wrong on the way is a `RemoteError` (`AuthenticationError` if we are not let in), with ``transient``
    set where trying again may help. An answer that contradicts itself or the question, such as too few bytes, is an
    `IntegrityError`. Neither messages nor ``url`` hold secrets.

    Attributes
    ----------
    url : str
        Where it is, for messages.
    """

    url: str

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do; may ask the other side when first used."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """Yield every key that begins with `prefix`, in no order; nothing if there is none.

        Keys that do not fit the grammar are left out. IntegrityError beyond `MAX_KEYS`; MalformedError, which is one,
        at a prefix with which no key begins.
        """

    def keys(self, prefix: str) -> Iterator[KeyInfo]:
        """Yield what `list` does, whatever an engine lets through: only keys, and not without an end.

        Raises
        ------
        IntegrityError
            Beyond `MAX_KEYS`, or at a size that no key has.
        """
        for number, item in enumerate(self.list(prefix)):
            if number >= MAX_KEYS:
                raise IntegrityError(f"{self.url} lists more than {MAX_KEYS:,} keys")
            if item.key.startswith(prefix) and is_key(item.key):
                if not 0 <= item.size <= MAX_BODY_BYTES:
                    raise IntegrityError(f"{self.url} says that {item.key} has {item.size:,} bytes")
                yield item

    def info(self, key: str) -> KeyInfo | None:
        """Return what a listing says of one key; None if there is no such key. Errors as of `keys`."""
        return next((item for item in self.keys(key) if item.key == key), None)

    @abstractmethod
    def read(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`.

        Raises
        ------
        NotFoundError
            If there is no such key.
        IntegrityError
            If there are not so many bytes.
        """

    @abstractmethod
    def read_all(self, key: str, limit: int) -> bytes:
        """Return all bytes of a key, of which there are at most `limit`.

        Raises
        ------
        NotFoundError
            If there is no such key.
        IntegrityError
            If there are more, before they are in memory.
        """

    def admit(self, key: str, size: int) -> None:  # noqa: ARG002 - whoever checks more asks for it
        """Refuse what `create` would refuse whatever the body is, so that no byte of that has to come first.

        Parameters
        ----------
        key : str
            What is to be created.
        size : int
            Bytes of its body.
        """
        check_key(key)

    @abstractmethod
    def create(self, key: str, body: Body) -> bool:
        """Store `body` under `key`, durably, unless the key exists; return whether it was free.

        Several that create one key at a time: one of them at most is told that it was free. False may also mean that
        an earlier try of this very call has succeeded without being heard of: read the key to know.
        """

    @abstractmethod
    def touch(self, key: str) -> bool:
        """Set the time of last change of `key` to the present; False if this engine cannot, or there is no such key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a key; NotFoundError if there is none."""

    def prepare(self) -> None:
        """Begin to reach the other side, without waiting for it: for who has other things to do before he asks.

        Raises
        ------
        RemoteError
            If that cannot even begin.
        """
        return

    def close(self) -> None:
        """Let go of connections and processes. May be repeated."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
