"""``mvc init``: make a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mvc.errors import AlreadyExistsError, IntegrityError, InvalidInputError, NotFoundError, StorageError
from mvc.objects.refnames import HEAD, branch_ref
from mvc.repo.clock import Actor
from mvc.repo.layout import FORMAT_TEXT, Layout, find_layout
from mvc.repo.refs import attach
from mvc.repo.session import Session
from mvc.store.fs import FileSystem
from mvc.store.tmp import Temporaries

__all__ = ["init"]

_OWN_NAMES: Final = frozenset({"objects", "packs", "ops", "op_head", "leases", "tmp", "probe"})
"""What an ``init`` that was interrupted, or a client that looked whether it can write, may have left behind."""


def init(
    root: Path, actor: Actor, branch: str = "main", fs: FileSystem | None = None, *, bare: bool = False
) -> Session:
    """Make a repository in `root`, which is created if need be, and return it.

    The format file is written last: until it is there, nothing takes the directory for a repository, and an interrupted
    ``init`` is completed by the next.

    Parameters
    ----------
    root : Path
        The future work tree, or the directory of a bare repository.
    actor : Actor
        Who, and by which command.
    branch : str
        Name of the first branch.
    fs : FileSystem, optional
        Through which to write.
    bare : bool
        Make a repository without a work tree, as servers keep.

    Raises
    ------
    AlreadyExistsError
        If there is a repository already.
    InvalidInputError
        If `branch` cannot name a branch, or `root` is a file; or, for a bare one, holds files of something else.
    StorageError
        If the directory cannot be made.
    """
    ref = branch_ref(branch)
    if root.exists() and not root.is_dir():
        raise InvalidInputError(f"{root} is not a directory")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{root} cannot be made: {error.strerror}") from error
    layout = _free_layout(root.resolve(), bare=bare)
    session = Session(layout, fs)
    session.store.initialize()
    if not _has_head(session):
        session.refs.start({HEAD: attach(ref)}, actor)
    elif layout.format.exists():
        raise AlreadyExistsError(f"{layout.root} is a repository already", hint="mvc status")
    Temporaries(layout.directory, session.fs).durable_write(layout.format, FORMAT_TEXT.encode())
    return session


def _free_layout(root: Path, *, bare: bool) -> Layout:
    """Return the layout of a repository to be made, or to be completed, in a directory that can take it."""
    found = find_layout(root)
    if found is not None and found.bare != bare:
        raise AlreadyExistsError(f"{root} is a repository already", hint="mvc log")
    layout = Layout(root, bare=bare)
    if bare and not layout.format.exists() and (strange := {path.name for path in root.iterdir()} - _OWN_NAMES):
        raise InvalidInputError(
            f"{root} is not empty: it holds {min(strange)!r}", hint="mvc init --bare takes a directory of its own"
        )
    return layout


def _has_head(session: Session) -> bool:
    """Return True if there is a head. An operation without one is that of an interrupted ``init``, which is repeated.

    Raises
    ------
    IntegrityError
        If there was a head in a repository that was completed.
    """
    try:
        session.refs.newest()
    except NotFoundError:
        return False
    except IntegrityError:
        if session.layout.format.exists() or session.store.head.read():
            raise
        return False
    return True
