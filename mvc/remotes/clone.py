"""``mvc clone``: a new repository with what a remote has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mvc.errors import AlreadyExistsError, NotFoundError
from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES
from mvc.remotes.config import add_remote, set_upstream
from mvc.remotes.fetch import FetchRequest, FetchResult, fetch
from mvc.remotes.remote_store import RemoteStore
from mvc.remotes.tracking import tracking_ref
from mvc.repo.checkout import switch
from mvc.repo.clock import Actor
from mvc.repo.init import init
from mvc.repo.layout import DIRECTORY, Layout
from mvc.repo.partial import parse_filter
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import RefState
from mvc.repo.session import Promisor, Session
from mvc.repo.workspace import Workspace
from mvc.settings import Remote
from mvc.store.fs import FileSystem
from mvc.types import object_id

__all__ = ["CloneRequest", "CloneResult", "clone"]


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """How to clone.

    Parameters
    ----------
    name : str
        What the remote is called in the clone.
    branch : str or None
        Short name of the branch to check out; by default that of the remote's HEAD.
    checkout : bool
        Write the files.
    depth : int or None
        As for `FetchRequest`. Without one, all tags come.
    """

    name: str = "origin"
    branch: str | None = None
    checkout: bool = True
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class CloneResult:
    """What was made.

    Parameters
    ----------
    session : Session
        The clone.
    fetched : FetchResult
        What came in.
    branch : str or None
        Full name of the branch that was checked out; None if the remote has no commit.
    written : int
        Files.
    """

    session: Session
    fetched: FetchResult
    branch: str | None
    written: int


def clone(
    store: RemoteStore,
    remote: Remote,
    root: Path,
    request: CloneRequest,
    actor: Actor,
    progress: Progress = silent,
    promisor: Callable[[Session], Promisor | None] | None = None,
    fs: FileSystem | None = None,
) -> CloneResult:
    """Make a repository in `root` and fetch everything into it. What was interrupted goes on when it is repeated.

    Parameters
    ----------
    store : RemoteStore
        The remote.
    remote : Remote
        What the configuration is to say of it. Of a promisor only what its filter names is fetched, and what the files
        that are checked out take besides.
    root : Path
        A directory that is empty or does not exist; or a clone of the same remote that was interrupted.
    request : CloneRequest
        How.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.
    promisor : callable, optional
        Returns what brings contents that were left out, given the clone.
    fs : FileSystem, optional
        Through which to write.

    Raises
    ------
    AlreadyExistsError
        If there is something else in `root`.
    NotFoundError
        If there is no repository, or it has no such branch.
    """
    parse_filter(remote.filter)
    store.check_format()
    theirs = store.state()
    first = _first_branch(theirs, request)
    session = _prepared(root, remote, request, actor, first, fs)
    what = FetchRequest(depth=request.depth, tags="follow" if request.depth else "all")
    fetched = fetch(session, store, request.name, what, actor, progress)
    tip = session.refs.state().refs.get(tracking_ref(request.name, first))
    if tip is None:
        return CloneResult(session, fetched, None, 0)
    short = first.removeprefix(BRANCHES)
    set_upstream(session, short, request.name, short)
    commit = object_id(tip)
    if not request.checkout:
        session.refs.update(lambda state: (RefChange(first, state.refs.get(first), commit),), actor)
        session.refresh()
        return CloneResult(session, fetched, first, 0)
    session.promisor = promisor(session) if promisor else None
    done = switch(session, commit, actor, branch=first, create=True, progress=progress)
    return CloneResult(session, fetched, first, done.written)


def _first_branch(theirs: RefState, request: CloneRequest) -> str:
    """Return the full name of the branch that the clone begins with."""
    if request.branch is None:
        first = next((name for name in sorted(theirs.refs) if name.startswith(BRANCHES)), None)
        followed = theirs.branch if theirs.branch in theirs.refs else first
        return followed or theirs.branch or BRANCHES + "main"
    if BRANCHES + request.branch not in theirs.refs:
        raise NotFoundError(f"the remote has no branch {request.branch!r}", hint="mvc ls-remote URL")
    return BRANCHES + request.branch


def _prepared(
    root: Path, remote: Remote, request: CloneRequest, actor: Actor, first: str, fs: FileSystem | None
) -> Session:
    """Make the repository that is fetched into, or open one that an interrupted clone has made."""
    layout = Layout(root.resolve())
    if layout.format.is_file():
        return _begun(Session(layout, fs), remote, request.name, first)
    if root.is_dir() and {path.name for path in root.iterdir()} - {DIRECTORY}:
        raise _in_use(root)
    workspace = Workspace(layout, fs)
    if request.name not in workspace.settings.remotes:
        layout.directory.mkdir(parents=True, exist_ok=True)
        add_remote(workspace, request.name, remote)  # first of all: by this an interrupted clone is known
    if workspace.settings.remotes != {request.name: remote}:
        raise _in_use(root)
    return init(root, actor, first.removeprefix(BRANCHES), fs)


def _begun(session: Session, remote: Remote, name: str, first: str) -> Session:
    """Return what a clone of the same remote has begun; files are there if it ended while it wrote them."""
    if session.settings.remotes.get(name) != remote or first in session.refs.state().refs:
        raise _in_use(session.layout.root)
    return session


def _in_use(root: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f"{root} exists and is not empty", hint="choose another directory")
