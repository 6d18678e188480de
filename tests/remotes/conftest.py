"""Servers that the tests of remotes talk to, one of each for all tests of a process; and clones of a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.config import add_remote
from mvc.remotes.engine import Engine
from mvc.remotes.fetch import FetchRequest, FetchResult, fetch
from mvc.remotes.posix import PosixEngine
from mvc.remotes.pull import PullResult, pull
from mvc.remotes.push import PushRequest, PushResult, push
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.tracking import tracked
from mvc.repo.clock import Actor
from mvc.repo.fsck import fsck
from mvc.repo.layout import Layout
from mvc.repo.merge import MergeRequest
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.settings import Remote
from mvc.testing.object_stores import ObjectStore, rclone, seaweed
from mvc.testing.remote_faults import CutEngine
from mvc.types import ObjectId, object_id
from tests.remotes.sides import Sides

Wanted = tuple[str | None, str, ObjectId | None]
LONG_AGO = time.time() - 30 * 86_400
"""When what garbage collection takes was written."""


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Return an object store that keeps conditions."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as store:
        yield store


@pytest.fixture(scope="session")
def careless_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Return one that ignores them."""
    with rclone(tmp_path_factory.mktemp("rclone")) as store:
        yield store


class Machines:
    """A bare repository, called ``origin`` by all, and the repositories that talk to it, each in its own directory."""

    def __init__(self, root: Path, open_lab: Callable, actor: Actor) -> None:
        self.root = root
        self.there = root / "there"
        self.actor = actor
        self._open = open_lab
        root.mkdir(exist_ok=True)
        RemoteStore(PosixEngine(self.there)).initialize(actor, "refs/heads/main")

    # Both sides.

    def engine(self) -> PosixEngine:
        """Return a way to the bare repository."""
        return PosixEngine(self.there)

    def bare(self) -> Session:
        """Open the bare repository as what it is on its disk."""
        return Session(Layout(self.there, bare=True))

    def state(self) -> RefState:
        """Return the refs of the bare repository."""
        return self.bare().refs.state()

    def operations(self) -> list[str]:
        """Return the commands of its operations, newest first."""
        return [operation.command for _, operation in self.bare().refs.walk()]

    def add(self, lab):
        """Tell a repository of the bare one."""
        add_remote(lab.session, "origin", Remote(str(self.there)))
        return lab

    def age(self) -> None:
        """Make everything that the bare repository stores old enough to be collected."""
        for path in self.there.rglob("*"):
            if path.is_file():
                os.utime(path, (LONG_AGO, LONG_AGO))

    def faults(self, *labs) -> list:
        """Return what fsck finds in the bare repository and in others."""
        sessions = [self.bare(), *(Session(lab.session.layout) for lab in labs)]
        return [fault for session in sessions for fault in fsck(session).faults]

    def temporaries(self, *labs) -> list[Path]:
        """Return what lies in the directories of temporaries, and leases."""
        roots = [self.there, *(lab.session.layout.directory for lab in labs)]
        return [path for root in roots for name in ("tmp", "leases") for path in (root / name).glob("*")]

    # Verbs.

    def clone(self, directory: str, engine: Engine | None = None, **options):
        """Clone into a directory."""
        self.clone_result(directory, engine, **options)
        return self._open(self.root / directory)

    def clone_result(self, directory: str, engine: Engine | None = None, **options):
        """Clone, and return what clone returns."""
        store = RemoteStore(engine or self.engine())
        return clone(store, Remote(str(self.there)), self.root / directory, CloneRequest(**options), self.actor)

    def push(self, lab, *names: str, engine: Engine | None = None, force=False, dry_run=False, delete=()) -> PushResult:
        """Push branches and tags by short name, ``SOURCE:TARGET`` too; the current branch if none is named."""
        lab.session.refresh()
        state = lab.session.refs.state()
        wanted: list[Wanted] = [(None, ref, None) for ref in delete]
        for name in names or (() if delete else (state.branch.removeprefix(BRANCHES),)):
            source, _, target = name.partition(":")
            kind = BRANCHES if BRANCHES + source in state.refs else TAGS
            wanted.append((kind + source, kind + (target or source), object_id(state.refs[kind + source])))
        lease = tracked(state.refs, "origin") if force else None
        request = PushRequest(tuple(wanted), lease, dry_run)
        return push(lab.session, RemoteStore(engine or self.engine()), "origin", request, self.actor)

    def fetch(self, lab, *branches: str, engine: Engine | None = None, **what) -> FetchResult:
        """Fetch."""
        store = RemoteStore(engine or self.engine())
        return fetch(lab.session, store, "origin", FetchRequest(branches, **what), self.actor)

    def pull(self, lab, branch: str = "main", engine: Engine | None = None, favour=None) -> PullResult:
        """Pull a branch into the current one."""
        store, how = RemoteStore(engine or self.engine()), MergeRequest(favour=favour)
        return pull(lab.session, store, "origin", branch, FetchRequest(), how, self.actor)

    def counted(self) -> CutEngine:
        """Return a way that counts requests."""
        return CutEngine(self.engine())


@pytest.fixture
def machines_in(open_lab, actor) -> Callable[[Path], Machines]:
    """Return a function that makes an empty bare repository, below a directory, and what talks to it."""
    return lambda root: Machines(root, open_lab, actor)


@pytest.fixture
def machines(tmp_path, machines_in) -> Machines:
    """Return an empty bare repository, and what talks to it."""
    made: Machines = machines_in(tmp_path)
    return made


@pytest.fixture
def ada(machines, make_lab):
    """Return a repository with two epochs on main, which origin does not have yet."""
    lab = machines.add(make_lab("ada"))
    model = lab.model()
    lab.write("notes.txt", "notes")
    lab.committed(model, message="epoch 1")
    lab.committed(lab.tuned(model, 1), message="epoch 2")
    return lab


@pytest.fixture
def sides(tmp_path, lab) -> Sides:
    """Return a remote without commits, and a repository that knows it."""
    return Sides(tmp_path, lab)
