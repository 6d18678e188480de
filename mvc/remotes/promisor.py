"""Contents that were left out of a partial repository: fetched, when they are needed, from who promises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mvc.errors import AuthenticationError, IntegrityError, NotFoundError, RemoteError
from mvc.objects.manifest import SegmentKind
from mvc.remotes.download import download
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, IndexCache
from mvc.remotes.ranges import SPARSE_GAP_BYTES
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.partial import Contents
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["Connect", "RemotePromisor", "Supply"]

Connect = Callable[[str], AbstractContextManager[Engine]]
"""Returns the engine of a remote, given its name."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What is about to be fetched.

    Parameters
    ----------
    remote : str
        From where.
    tensors : int
        Contents.
    stored_bytes : int
        What they take there, without what they are deltas of.
    """

    remote: str
    tensors: int
    stored_bytes: int


@dataclass(frozen=True)
class RemotePromisor:
    """Brings what is lacking from the promisors of a repository, in the order of its configuration.

    Parameters
    ----------
    session : Session
        The repository.
    connect : callable
        Returns the engine of a remote, given its name.
    command : str
        What needs the contents, for messages.
    tell : callable
        Told what is about to be fetched.
    progress : callable
        Told how far that is.
    """

    session: Session
    connect: Connect
    command: str
    tell: Callable[[Supply], None] = lambda _: None
    progress: Progress = silent

    def __call__(self, wanted: Mapping[ObjectId, tuple[SegmentKind, int]]) -> None:
        """See `mvc.repo.session.Promisor`."""
        problem: RemoteError | None = None
        rest: Contents = wanted
        with self.session.store.leases.take("fetch"):
            for name in self.session.promisors:
                try:
                    rest = self._bring(name, rest)
                except AuthenticationError:
                    raise
                except (NotFoundError, RemoteError) as error:
                    problem = self._unreached(name, rest, error)
                if not rest:
                    return
        if problem is not None:
            raise problem
        raise IntegrityError(
            f"{self.command} needs content {min(rest)}, which no remote has", hint="mvc fsck --remote NAME"
        )

    def _bring(self, name: str, wanted: Contents) -> Contents:
        """Bring what a remote has; return what it has not."""
        with self.connect(name) as engine:
            RemoteStore(engine).check_format()  # a directory that is gone would only seem to be empty
            cache = IndexCache(self.session.layout.directory, name, self.session.fs)
            holdings = Holdings(engine, cache)
            held = {oid: what for oid, what in wanted.items() if oid in holdings}
            if held:
                self.tell(Supply(name, len(held), sum(holdings.places(oid)[0].length for oid in held)))
                with self.session.pool() as pool:
                    download(self.session, engine, holdings, held, pool, self.progress, SPARSE_GAP_BYTES)
        return {oid: what for oid, what in wanted.items() if oid not in held}

    def _unreached(self, name: str, wanted: Contents, error: RemoteError | NotFoundError) -> RemoteError:
        count = f"{len(wanted)} tensor" + ("s" if len(wanted) != 1 else "")
        return RemoteError(
            f"{self.command} needs {count} that only {name} has: {error.message}",
            hint=f"repeat {self.command} when {name} can be reached; nothing was changed",
            transient=not isinstance(error, RemoteError) or error.transient,
        )
