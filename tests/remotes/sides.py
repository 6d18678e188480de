"""A remote, a repository that pushes to it, and clones of parts, for tests of these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvc.objects.refnames import BRANCHES
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.config import add_remote
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.posix import PosixEngine
from mvc.remotes.promisor import RemotePromisor, Supply
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.checkout import export_commit
from mvc.repo.clock import Actor
from mvc.repo.fsck import fsck
from mvc.repo.session import Session
from mvc.settings import Gc, Remote
from mvc.types import ObjectId

MAIN = BRANCHES + "main"
GREEDY = Gc(grace_hours=0.0, retention_days=0.0, dead_share=0.0)
ALONE = {"grace_hours": 0.0}
LONG_AGO = 1_000_000_000
AUTHOR = Actor("Ada <ada@example.org>", "test")


class CountingEngine(PosixEngine):
    """Notes the lengths of what is read of packs and blobs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lengths: list[int] = []

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        self.lengths.append(length)
        return super().read(key, offset, length)


class Sides:
    """A bare repository, a full one that pushes to it, and clones."""

    def __init__(self, root: Path, lab) -> None:
        self.root = root
        self.full = lab
        self.supplies: list[Supply] = []
        self.url = root / "origin"
        RemoteStore(PosixEngine(self.url)).initialize(AUTHOR, MAIN)
        add_remote(lab.session, "origin", Remote(str(self.url)))

    @property
    def store(self) -> RemoteStore:
        """The remote."""
        return RemoteStore(PosixEngine(self.url))

    def publish(self, session: Session | None = None, **what: Any) -> None:
        """Push all branches and tags."""
        session = session or self.full.session
        refs = session.refs.state().refs
        names = [name for name in refs if name.startswith(("refs/heads/", "refs/tags/"))]
        request = PushRequest(tuple((name, name, ObjectId(refs[name])) for name in names), **what)
        push(session, self.store, "origin", request, AUTHOR)

    def clone(self, name: str, *, filters: tuple[str, ...] | None = None, **how: Any) -> Session:
        """Clone into a directory of that name; with `filters`, partially."""
        remote = Remote(str(self.url), promisor=filters is not None, filter=filters or ())
        request = CloneRequest(**{"checkout": False, **how})
        result = clone(self.store, remote, self.root / name, request, AUTHOR, promisor=self.promisor)
        result.session.promisor = self.promisor(result.session)
        return result.session

    def promisor(self, session: Session) -> RemotePromisor:
        """Return what fetches for a clone, and notes in `supplies` what it did."""
        return RemotePromisor(session, lambda _: PosixEngine(self.url), "mvc test", self.supplies.append)

    def fetch(self, session: Session, **what: Any):
        """Fetch."""
        return fetch(session, self.store, "origin", FetchRequest(**what), AUTHOR)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Have nobody find the remote while the block runs."""
        self.url.rename(self.root / "away")
        try:
            yield
        finally:
            (self.root / "away").rename(self.url)


def epochs(lab, count: int, rows: int = 64) -> list[ObjectId]:
    """Commit a model and its epochs, oldest first."""
    model = lab.model(1, rows)
    made = [lab.committed(model, message="epoch 0")]
    for number in range(1, count):
        model = lab.tuned(model, number)
        made.append(lab.committed(model, message=f"epoch {number}"))
    return made


def clean(session: Session) -> bool:
    """Return whether a new look at a repository finds no fault."""
    return fsck(Session(session.layout)).clean


def age(session: Session) -> None:
    """Make everything that is stored look old."""
    for path in session.layout.directory.rglob("*"):
        if path.suffix in {".pack", ".idx", ".blob"}:
            os.utime(path, (LONG_AGO, LONG_AGO))


def exported(session: Session, commit: ObjectId, to: Path) -> dict[str, bytes]:
    """Return the files of a commit."""
    export_commit(session, commit, to)
    return {path.relative_to(to).as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()}
