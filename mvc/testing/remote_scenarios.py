"""What two repositories go through while the machine crashes and the disk fails: a work tree, and a bare one beside it.

The remote is a directory, so that every step of either side is one of `mvc.store.fs`, and is counted.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from mvc.errors import AlreadyExistsError
from mvc.objects.refnames import BRANCHES, TAGS
from mvc.remotes.clone import CloneRequest, clone
from mvc.remotes.collect import collect_remote
from mvc.remotes.fetch import FetchRequest, fetch
from mvc.remotes.posix import PosixEngine
from mvc.remotes.pull import pull
from mvc.remotes.push import PushRequest, push
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.branches import create_tag
from mvc.repo.commit import CommitRequest, commit
from mvc.repo.layout import Layout
from mvc.repo.merge import MergeRequest
from mvc.repo.revisions import resolve
from mvc.repo.session import Session
from mvc.repo.tree import from_worktree
from mvc.settings import Remote
from mvc.store.fs import FileSystem
from mvc.testing.scenarios import (
    ACTOR,
    NOTHING_KEPT,
    REMOTE,
    Scenario,
    age,
    commit_tree,
    epochs,
    open_case,
    scenario,
    train,
    write,
)
from mvc.types import ObjectId

__all__ = ["REMOTE_SCENARIOS", "push_all", "remote_store"]

REMOTE_SCENARIOS: Final[dict[str, Scenario]] = {}
"""All scenarios of two repositories, by name."""

_ORIGIN: Final = "origin"
_MAIN: Final = BRANCHES + "main"
_GARBAGE: Final = 6
"""Packs with nothing but garbage: each is removed in two steps."""
_LARGE: Final = 2_200_000
"""Words of 2 bytes: more than the 4 MiB from which on a blob that arrives is stored as a file of its own."""


def remote_store(case: Path, fs: FileSystem | None = None) -> RemoteStore:
    """Return the remote of a case."""
    return RemoteStore(PosixEngine(case / REMOTE, fs))


def push_all(session: Session, store: RemoteStore, *, force: bool = False) -> None:
    """Push all branches and tags; with `force`, whatever the remote has in their places."""
    wanted = [
        (name, name, ObjectId(value))
        for name, value in session.refs.state().refs.items()
        if name.startswith((BRANCHES, TAGS))
    ]
    theirs = {name: ObjectId(value) for name, value in store.state().refs.items() if name.startswith(BRANCHES)}
    push(session, store, _ORIGIN, PushRequest(tuple(wanted), theirs if force else None), ACTOR)


def _push(case: Path, fs: FileSystem | None = None) -> None:
    push_all(open_case(case, fs), remote_store(case, fs))


def _trained(case: Path) -> None:
    train(case, 2)


@scenario(_trained, REMOTE_SCENARIOS)
def make_a_remote(case: Path, fs: FileSystem | None) -> None:
    """Make an empty repository in a directory that is not there yet, as with ``mvc remote add``."""
    with suppress(AlreadyExistsError):
        remote_store(case, fs).initialize(ACTOR, _MAIN)


def _unpushed(case: Path) -> None:
    """Make two epochs, one of which has a tag object, and a remote without commits."""
    _trained(case)
    session = open_case(case)
    create_tag(session, "v1", resolve(session, "main~1").commit, ACTOR, message="the first release")
    make_a_remote.act(case, None)


@scenario(_unpushed, REMOTE_SCENARIOS)
def push_to_a_directory(case: Path, fs: FileSystem | None) -> None:
    """Push where everything is new: contents, commits, a branch and a tag."""
    _push(case, fs)


def _pushed(case: Path) -> None:
    _unpushed(case)
    _push(case)


def _unpushed_epoch(case: Path) -> None:
    _pushed(case)
    commit_tree(case)


@scenario(_unpushed_epoch, REMOTE_SCENARIOS)
def push_of_an_epoch(case: Path, fs: FileSystem | None) -> None:
    """Push deltas of what the remote has."""
    _push(case, fs)


# Somebody else has pushed, from ``clone``.


def _go_on_elsewhere(case: Path) -> None:
    """Have somebody else commit and push an epoch, and a tensor that is stored as a file of its own."""
    shutil.copytree(case / "work", case / "elsewhere")
    session = Session(Layout(case / "elsewhere"))
    model = next(epochs(8))
    write(case / "elsewhere" / "other.safetensors", model)
    large = np.random.default_rng(9).integers(0, 4, _LARGE).astype("<u2")
    write(case / "elsewhere" / "large.safetensors", {"large": large})
    commit(session, from_worktree(session.layout.root), CommitRequest("elsewhere"), ACTOR)
    create_tag(session, "v2", resolve(session, "main").commit, ACTOR, message="the second release")
    push_all(session, remote_store(case))
    shutil.rmtree(case / "elsewhere")


def _behind(case: Path) -> None:
    """Have the remote be ahead, and nothing in the work tree that is not committed."""
    _pushed(case)
    commit_tree(case)
    _push(case)
    _go_on_elsewhere(case)


@scenario(_behind, REMOTE_SCENARIOS)
def fetch_from_a_directory(case: Path, fs: FileSystem | None) -> None:
    """Bring contents, a commit and a tag here, and note where the branch is."""
    fetch(open_case(case, fs), remote_store(case, fs), _ORIGIN, FetchRequest(), ACTOR)


def _pull(case: Path, fs: FileSystem | None) -> None:
    pull(open_case(case, fs), remote_store(case, fs), _ORIGIN, "main", FetchRequest(), MergeRequest(), ACTOR)


@scenario(_behind, REMOTE_SCENARIOS)
def pull_by_a_fast_forward(case: Path, fs: FileSystem | None) -> None:
    """Fetch, and move the branch and the work tree."""
    _pull(case, fs)


def _parted(case: Path) -> None:
    _behind(case)
    write(case / "work" / "notes.txt", b"only here")
    commit_tree(case, message="here")


@scenario(_parted, REMOTE_SCENARIOS)
def pull_that_merges(case: Path, fs: FileSystem | None) -> None:
    """Fetch, and make a commit of two parents."""
    _pull(case, fs)


# Clones.


def _clone(case: Path, fs: FileSystem | None, depth: int | None = None) -> None:
    with suppress(AlreadyExistsError):
        request = CloneRequest(_ORIGIN, depth=depth)
        clone(remote_store(case, fs), Remote("../remote"), case / "clone", request, ACTOR, fs=fs)


@scenario(_behind, REMOTE_SCENARIOS)
def clone_a_directory(case: Path, fs: FileSystem | None) -> None:
    """Make a repository with everything, and its work tree."""
    _clone(case, fs)


@scenario(_behind, REMOTE_SCENARIOS)
def clone_the_tip(case: Path, fs: FileSystem | None) -> None:
    """Make a repository that knows which commits it lacks."""
    _clone(case, fs, depth=1)


def _shallow(case: Path) -> None:
    _behind(case)
    clone_the_tip.act(case, None)


@scenario(_shallow, REMOTE_SCENARIOS)
def deepen_a_clone(case: Path, fs: FileSystem | None) -> None:
    """Bring the commits that a clone lacks."""
    session = Session(Layout(case / "clone"), fs)
    fetch(session, remote_store(case, fs), _ORIGIN, FetchRequest(unshallow=True), ACTOR)


# What the remote removes.


def _garbage_there(case: Path) -> None:
    """Have the remote hold a commit and some tags that no ref of it reaches, in packs of their own."""
    _behind(case)
    store = remote_store(case)
    tags = [f"old-{number}" for number in range(_GARBAGE)]
    for name in tags:
        create_tag(open_case(case), name, resolve(open_case(case), "main").commit, ACTOR, message=name)
        session = open_case(case)
        value = ObjectId(session.refs.state().refs[TAGS + name])
        push(session, store, _ORIGIN, PushRequest(((TAGS + name, TAGS + name, value),)), ACTOR)
    old = ObjectId(open_case(case).refs.state().refs[_MAIN])
    lease = {_MAIN: ObjectId(store.state().refs[_MAIN])}
    session = open_case(case)
    deleted = tuple((None, TAGS + name, None) for name in ("v2", *tags))
    push(session, store, _ORIGIN, PushRequest(((_MAIN, _MAIN, old), *deleted), lease), ACTOR)
    age(case / REMOTE)


@scenario(_garbage_there, REMOTE_SCENARIOS)
def collect_the_garbage_of_a_remote(case: Path, fs: FileSystem | None) -> None:
    """Remove what no ref of the remote reaches."""
    collect_remote(remote_store(case, fs), NOTHING_KEPT, exclusive=True)
