"""A repository that others may write to: everything is checked here before anybody sees it.

What arrives lies outside of the store until every blob was decoded and compared with its id; refs move only to commits
of which everything is stored. So whoever reads the repository, by whatever way, may trust it as far as he trusts this
machine, and not those who pushed.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from mvc.errors import AuthenticationError, RemoteError
from mvc.lazy import LazyModule
from mvc.remotes.engine import Body, Capabilities, Engine, KeyInfo
from mvc.remotes.keys import FORMAT, HEADS, LOOSE, OPERATIONS, PACKS, PROBES, check_key
from mvc.remotes.posix import PosixEngine
from mvc.remotes.wire import body_size
from mvc.repo.layout import Layout, check_format, find_layout, read_features
from mvc.server.limits import DECODED_BYTES, LARGEST_PACK, check_size
from mvc.store.local_fs import LocalFileSystem
from mvc.store.op_head import KEPT_HEADS, OpHead

if TYPE_CHECKING:
    from mvc.server.checking import Checker

checking = LazyModule("mvc.server.checking")

__all__ = ["Repository", "Scope", "Service", "check_complete", "find_served"]


class Scope(IntEnum):
    """What somebody may do; each may do what the ones before it may."""

    READ = 0
    WRITE = 1
    ADMIN = 2


def find_served(path: Path) -> Layout | None:
    """Return the repository at `path`, which may be served; None if there is none.

    Raises
    ------
    FormatError
        If this release cannot write it.
    RemoteError
        If it does not hold everything.
    """
    layout = find_layout(path) if path.is_dir() else None
    if layout is not None:
        check_format(layout, "write")
        check_complete(layout)
    return layout


def check_complete(layout: Layout) -> None:
    """Refuse a repository that lacks something by design: who clones it relies on its having everything.

    Raises
    ------
    RemoteError
        If it is shallow, partial or thinned (spec-v1, section 12).
    """
    features = sorted({name for names in read_features(layout).values() for name in names})
    if features or layout.shallow.exists():
        raise RemoteError(
            f"the repository is {' and '.join(features) or 'shallow'}: it does not hold everything, and is not served",
            hint="serve a full clone; mvc fetch --unshallow makes a shallow one whole",
        )


class Repository:
    """What all services of one repository share.

    Parameters
    ----------
    layout : Layout
        Where it is.
    largest : int
        Bytes of the largest pack that is taken.
    decoded : int
        Bytes to which the blobs of one pack may decode.
    """

    def __init__(self, layout: Layout, largest: int = LARGEST_PACK, decoded: int = DECODED_BYTES) -> None:
        fs = LocalFileSystem()
        self.layout = layout
        self.engine = PosixEngine(layout.root, fs, "the repository")
        self.head = OpHead(layout.directory, fs)
        self.largest = largest
        self.spool = layout.directory / "tmp"
        self._decoded = decoded
        self._guard = Lock()
        self._checker: Checker | None = None
        fs.mkdir(self.spool)

    @property
    def checker(self) -> Checker:
        """What takes what is pushed: one for all, for what it checks waits for each other."""
        with self._guard:
            if self._checker is None:
                self._checker = checking.Checker(self.layout, self.engine, self._decoded)
            return self._checker


class Service(Engine):
    """A repository as somebody may use it.

    Parameters
    ----------
    repository : Repository
        Which.
    scope : Scope
        What he may do.
    url : str
        How he calls it, for messages.
    """

    def __init__(self, repository: Repository, scope: Scope, url: str) -> None:
        self.url = url
        self._repository = repository
        self._engine = repository.engine
        self._scope = scope

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(True, self._engine.capabilities.connections, not self._repository.layout.bare)

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`."""
        return self._engine.list(prefix)

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        return self._engine.read(key, offset, length)

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        return self._engine.read_all(key, limit)

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        self._need(Scope.WRITE, "write to")
        return self._engine.touch(key)

    def delete(self, key: str) -> None:
        """See `Engine.delete`: for administrators, but for what was written to try whether one can write.

        Raises
        ------
        AuthenticationError
            If he may not.
        RemoteError
            If without it there would be no repository.
        """
        own = check_key(key).startswith(PROBES)
        self._need(Scope.WRITE if own else Scope.ADMIN, "remove anything from")
        if key == FORMAT or (key.startswith(HEADS) and int(key[len(HEADS) :]) >= self._newest() - KEPT_HEADS):
            raise RemoteError(f"{key} is not to be removed: the repository needs it")
        self._engine.delete(key)

    def admit(self, key: str, size: int) -> None:
        """See `Engine.admit`.

        Raises
        ------
        AuthenticationError
            If he may not write.
        RemoteError
            If it is larger than what is taken here.
        """
        self._need(Scope.WRITE, "write to")
        check_size(check_key(key), size, self._repository.largest)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`: what is not what its key says, or needs what is not here, is refused.

        A file must not change meanwhile.

        Raises
        ------
        AuthenticationError
            If he may not write.
        IntegrityError
            If it is not what it is said to be.
        RemoteError
            If it is larger than what is taken here, or a move of refs that is not.
        """
        self.admit(key, body_size(body))
        if self._engine.info(key) is not None:
            return False
        if key.startswith((PACKS, LOOSE, OPERATIONS, HEADS)):
            return self._repository.checker.create(key, body)
        if key == FORMAT:
            raise RemoteError("this repository is being made: try again", transient=True)
        return self._engine.create(key, body)

    def _need(self, scope: Scope, what: str) -> None:
        if self._scope < scope:
            raise AuthenticationError(f"you may not {what} this repository", hint="ask whoever runs the server")

    def _newest(self) -> int:
        head = self._repository.head.read()
        return head.number if head else 0
