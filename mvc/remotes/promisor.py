"""Contents that were left out of a partial repository: fetched, when they are needed, from who promises them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mvc.errors import AuthenticationError, ConflictError, IntegrityError, NotFoundError, RemoteError
from mvc.objects.manifest import SegmentKind
from mvc.remotes.download import download
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, IndexCache
from mvc.remotes.ranges import SPARSE_GAP_BYTES
from mvc.remotes.relisting import with_holdings
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.partial import Contents
from mvc.repo.progress import Progress, silent
from mvc.repo.renewing import renewing
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
        with self.session.store.leases.take("fetch") as lease:
            for name in self.session.promisors:
                try:
                    rest = self._bring(name, rest, renewing(lease, self.progress))
                except AuthenticationError:
                    raise
                except (NotFoundError, RemoteError) as error:
                    problem = self._unreached(name, rest, error)
                if not rest:
                    break
            if not lease.renew():
                raise ConflictError(
                    f"{self.command} was taken for dead, and what it has fetched may be gone", hint="repeat it"
                )
        if not rest:
            return
        if problem is not None:
            raise problem
        raise IntegrityError(
            f"{self.command} needs content {min(rest)}, which no remote has", hint="mvc fsck --remote NAME"
        )

    def _bring(self, name: str, wanted: Contents, progress: Progress) -> Contents:
        """Bring what a remote has; return what it has not."""
        with self.connect(name) as engine:
            RemoteStore(engine).check_format()  # a directory that is gone would only seem to be empty
            cache = IndexCache(self.session.layout.directory, name, self.session.fs)
            held = with_holdings(engine, cache, lambda found: self._receive(name, engine, found, wanted, progress))
        return {oid: what for oid, what in wanted.items() if oid not in held}

    def _receive(
        self, name: str, engine: Engine, holdings: Holdings, wanted: Contents, progress: Progress
    ) -> set[ObjectId]:
        """Receive what a remote holds and what no earlier try has brought; return what it holds."""
        held = {oid: what for oid, what in wanted.items() if oid in holdings}
        self.session.refresh(force=True)
        there = self.session.index.blobs(held)
        missing = {oid: what for oid, what in held.items() if oid not in there}
        if missing:
            self.tell(Supply(name, len(missing), sum(holdings.places(oid)[0].length for oid in missing)))
            with self.session.pool() as pool:
                download(self.session, engine, holdings, missing, pool, progress, SPARSE_GAP_BYTES)
        return {*held}

    def _unreached(self, name: str, wanted: Contents, error: RemoteError | NotFoundError) -> RemoteError:
        count = f"{len(wanted)} tensor" + ("s" if len(wanted) != 1 else "")
        return RemoteError(
            f"{self.command} needs {count} that only {name} has: {error.message}",
            hint=f"repeat {self.command} when {name} can be reached; nothing was changed",
            transient=not isinstance(error, RemoteError) or error.transient,
        )
