"""``mvc checkout``, ``switch`` and ``restore``: bring files back, without losing any that no commit holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mvc.codecs import Bytes
from mvc.errors import (
    AlreadyExistsError,
    ConflictError,
    DirtyWorkTreeError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from mvc.objects.manifest import FileEntry, Manifest
from mvc.objects.operation import RefChange, apply_changes
from mvc.objects.refnames import BRANCHES, HEAD, TAGS, THINNED
from mvc.repo.clock import Actor
from mvc.repo.export import export, remove_files, supply_files, write_pieces
from mvc.repo.layout import DIRECTORY
from mvc.repo.materialize import ContentReader
from mvc.repo.presence import check_contents, check_not_named, check_not_thinned, check_present
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import SYMBOLIC, RefState, attach, thinned_in
from mvc.repo.scan import scan
from mvc.repo.session import Session
from mvc.repo.status import Status, status
from mvc.repo.structures import dense_files
from mvc.repo.tree import covers, worktree_source
from mvc.repo.worktree import Tracked, WorkTree
from mvc.types import ObjectId, object_id

__all__ = [
    "CheckoutResult",
    "WorkTreeChange",
    "bring_worktree",
    "check_out_paths",
    "export_commit",
    "move_refs",
    "plan_worktree",
    "remember_worktree",
    "session_status",
    "switch",
    "write_worktree",
]


@dataclass(frozen=True, slots=True)
class CheckoutResult:
    """What a checkout did.

    Parameters
    ----------
    commit : ObjectId or None
        The commit whose files were written; None on a branch without commits.
    branch : str or None
        Full name of the branch that HEAD follows now; None if it is detached, or if HEAD did not move.
    written, removed : int
        Files.
    """

    commit: ObjectId | None
    branch: str | None
    written: int
    removed: int


def session_status(session: Session) -> Status:
    """Compare the work tree with HEAD."""
    return status(session, session.manifest, lambda commit, path: _differs(session, session.manifest(commit), path))


def _differs(session: Session, manifest: Manifest, path: str) -> bool:
    """Return True if a file of the work tree has other content than in `manifest`, by its segments' ids."""
    source = worktree_source(session.layout.tree, path)
    if source is None:
        return True
    with session.pool() as pool:
        (found,) = scan([source], pool)
    return found.segments != manifest.by_path[path].segments


def export_commit(
    session: Session,
    commit: ObjectId,
    to: Path,
    paths: Sequence[str] = (),
    progress: Progress = silent,
    *,
    dense: bool = False,
) -> CheckoutResult:
    """Write the files of `commit` below `to`, which is made if need be, and touch nothing else.

    Files at these paths are replaced; others below `to` stay. If `dense`, models that have lost heads or neurons get
    zeros in their places, so that whatever opens the model that they come from opens them.

    Raises
    ------
    NotFoundError
        If a path is not in the commit.
    InvalidInputError
        If `to` is a file, holds the work tree, lies in ``.mvc``, or something in it is in the way; if no model has lost
        anything, and they are to be dense.
    DirtyWorkTreeError
        If `to` lies in the work tree, and a file there that no commit holds would be overwritten.
    """
    files = _selected(session.manifest(commit), paths, commit)
    _check_target(session, to, files)
    if to.exists() and not to.is_dir():
        raise InvalidInputError(f"{to} is not a directory")
    with session.protected("checkout", commit), session.pool() as pool:
        try:
            to.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{to} cannot be made: {error.strerror}") from error
        padded = _dense(session, commit, files, pool) if dense else {}
        export(session, [file for file in files if file.path not in padded], to, pool, progress)
        for path, pieces in padded.items():
            write_pieces(session, to, path, pieces)
    return CheckoutResult(commit, None, len(files), 0)


def _dense(
    session: Session, commit: ObjectId, files: Sequence[FileEntry], pool: Executor
) -> dict[str, Iterable[Bytes | bytes]]:
    """Return those of the files that are to be written with zeros for what has gone."""
    supply_files(session, files)
    wanted = {file.path for file in files}
    found = dense_files(ContentReader(session, pool), session.manifest(commit))
    return {path: pieces for path, pieces in found.items() if path in wanted}


def _check_target(session: Session, to: Path, files: Sequence[FileEntry]) -> None:
    """Refuse to export over a repository's own files, or over work that no commit holds."""
    root, target = session.layout.root, to.resolve()
    if DIRECTORY in target.parts or target.is_relative_to(session.layout.directory):
        raise InvalidInputError(f"{to} lies in the repository, where only mvc writes", hint="choose another directory")
    if root.is_relative_to(target) and not session.layout.bare:
        raise InvalidInputError(
            f"{to} holds the work tree", hint="mvc restore --source REF PATH brings files back in place"
        )
    if target.is_relative_to(root):
        prefix, before = target.relative_to(root).as_posix(), session_status(session)
        touched = {f"{prefix}/{file.path}" for file in files}
        _refuse_loss(touched & {*before.added, *before.modified}, "overwritten")


def _selected(manifest: Manifest, paths: Sequence[str], commit: ObjectId) -> list[FileEntry]:
    for path in paths:
        if not any(covers([path], file.path) for file in manifest.files):
            raise NotFoundError(f"{path!r} is not in commit {commit[:12]}", hint=f"mvc show {commit[:12]}")
    return [file for file in manifest.files if not paths or covers(paths, file.path)]


def check_out_paths(
    session: Session, commit: ObjectId, paths: Sequence[str], *, force: bool = False, progress: Progress = silent
) -> CheckoutResult:
    """Bring files of the work tree back to what they are in `commit`. HEAD stays.

    Raises
    ------
    NotFoundError
        If a path is not in the commit.
    DirtyWorkTreeError
        Unless `force`, if that would overwrite a file that HEAD does not hold.
    """
    files = _selected(session.manifest(commit), paths, commit)
    before = session_status(session)
    if not force:
        _refuse_loss({file.path for file in files} & set(before.added), "overwritten")
    with session.protected("checkout", commit), session.pool() as pool:
        written = export(session, files, session.layout.tree, pool, progress)
    _learn(session, before.refs, session.manifest(commit), written)
    return CheckoutResult(commit, None, len(files), 0)


def _learn(session: Session, state: RefState, source: Manifest, written: dict[str, Tracked]) -> None:
    """Take the new stat of files of `source` that are now what HEAD says."""
    tree = session.load_worktree()
    if state.head is None or tree is None or tree.commit != state.head:
        return
    head = session.manifest(state.head).by_path
    known = {path: tracked for path, tracked in written.items() if head.get(path) == source.by_path[path]}
    session.save_worktree(WorkTree(tree.commit, {**tree.files, **known}))


def switch(
    session: Session,
    commit: ObjectId | None,
    actor: Actor,
    *,
    branch: str | None = None,
    create: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> CheckoutResult:
    """Bring the whole work tree to `commit` and point HEAD there.

    Files that both commits hold alike keep the changes that were made to them. The work tree is written before HEAD
    moves: if that is interrupted, ``mvc status`` shows the files as modified, and the same command completes it.

    Parameters
    ----------
    session : Session
        The repository.
    commit : ObjectId or None
        Where to go; None only for a new branch in a repository without commits.
    actor : Actor
        Who, and by which command.
    branch : str, optional
        Full name of the branch that HEAD shall follow; detached if not given.
    create : bool
        Make the branch, at `commit`.
    force : bool
        Overwrite and remove what no commit holds.
    progress : callable
        Told how far the work is.

    Raises
    ------
    AlreadyExistsError
        If the branch to be made exists.
    DirtyWorkTreeError
        Unless `force`, if a changed or unknown file would be overwritten or removed.
    ConflictError
        If another process moved HEAD or the branch meanwhile.
    """
    session.check_writable()
    before = session_status(session)
    if create and branch in before.refs.refs:
        raise AlreadyExistsError(f"branch {branch!r} exists already", hint="switch to it without creating it")
    if create and branch and TAGS + branch.removeprefix(BRANCHES) in before.refs.refs:
        raise AlreadyExistsError(
            f"a tag is called {branch.removeprefix(BRANCHES)!r} already", hint="choose another name"
        )
    value = attach(branch) if branch else commit
    changes = [RefChange(HEAD, before.refs.refs.get(HEAD), value)]
    if create and branch and commit:
        changes.append(RefChange(branch, None, commit))
    written, removed, state = bring_worktree(session, before, commit, changes, actor, force=force, progress=progress)
    with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
        session.follow(state)
    return CheckoutResult(commit, branch, written, removed)


def bring_worktree(
    session: Session,
    before: Status,
    commit: ObjectId | None,
    changes: Sequence[RefChange],
    actor: Actor,
    *,
    force: bool,
    progress: Progress,
) -> tuple[int, int, RefState]:
    """Bring the work tree from what `before` says to `commit`, then move refs.

    Returns
    -------
    tuple of (int, int, RefState)
        Files written and removed; the refs afterwards.

    Raises
    ------
    DirtyWorkTreeError, ConflictError
        As for `switch`.
    NotFoundError
        As for `move_refs`; the work tree is what it was.
    """
    new = session.manifest(commit) if commit else Manifest((), ())
    change = plan_worktree(session, before, new, force=force)
    with session.protected("checkout", commit):
        check_present(session, session.refs.state(), _held_by(changes))  # before any file is overwritten
        written = write_worktree(session, change, progress)
        state = move_refs(session, changes, actor)
    remember_worktree(session, commit, new, before.refs, written)
    return len(change.write), len(change.remove), state


@dataclass(frozen=True, slots=True)
class WorkTreeChange:
    """What brings the work tree from one tree to another.

    Parameters
    ----------
    write : tuple of FileEntry
        Files to write.
    remove : tuple of str
        Paths of files to remove, before that.
    """

    write: tuple[FileEntry, ...]
    remove: tuple[str, ...]


def plan_worktree(session: Session, before: Status, new: Manifest, *, force: bool = False) -> WorkTreeChange:
    """Return what brings the work tree from what `before` says to `new`; refuse what would lose content.

    Raises
    ------
    DirtyWorkTreeError
        Unless `force`, if a changed or unknown file would be overwritten or removed.
    InvalidInputError
        If an unknown file is in the way of a directory, or the other way round.
    """
    old = session.manifest(before.refs.head) if before.refs.head else Manifest((), ())
    losses = _Losses(session, before, old, new)
    touched = set(before.modified) | set(before.deleted)
    differing = [file for file in new.files if old.by_path.get(file.path) != file]
    gone = tuple(path for path in old.by_path if path not in new.by_path)
    _refuse_obstacles(before.added, {file.path for file in differing})
    if force:
        forced = (file for file in new.files if old.by_path.get(file.path) != file or file.path in touched)
        return WorkTreeChange(tuple(forced), gone)
    _refuse_loss({file.path for file in differing if losses.by_overwriting(file.path)}, "overwritten")
    _refuse_loss({path for path in gone if losses.by_removing(path)}, "removed")
    return WorkTreeChange(tuple(differing), gone)


def write_worktree(session: Session, change: WorkTreeChange, progress: Progress = silent) -> dict[str, Tracked]:
    """Carry out a change of the work tree; return what is known of the files written."""
    supply_files(session, change.write)
    with session.pool() as pool:
        remove_files(session.fs, session.layout.tree, change.remove)
        return export(session, change.write, session.layout.tree, pool, progress)


@dataclass(frozen=True)
class _Losses:
    """What a file of the work tree holds that neither HEAD nor the commit to go to holds.

    A file that is already what the new commit says, as after a switch that was interrupted, loses nothing. Files that
    are ignored are not in the status, but may be in the way: they are looked at here.
    """

    session: Session
    before: Status
    old: Manifest
    new: Manifest

    def by_overwriting(self, path: str) -> bool:
        """Return True if writing the new commit's file at `path` would lose content."""
        return self.by_removing(path) and _differs(self.session, self.new, path)

    def by_removing(self, path: str) -> bool:
        """Return True if removing the file at `path` would lose content."""
        if path in self.before.modified or path in self.before.added:
            return True
        if path in self.old.by_path and path not in self.before.deleted:
            return False
        place = self.session.layout.tree / path
        if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink()):
            return False  # what a directory holds is looked at file by file
        return path not in self.old.by_path or _differs(self.session, self.old, path)


def _refuse_obstacles(unknown: Sequence[str], paths: set[str]) -> None:
    """Refuse to begin where an unknown file stands for a directory, or a directory of such files for a file."""
    directories = {parent for path in paths for parent in _directories(path)}
    for path in unknown:
        if path in directories or not paths.isdisjoint(_directories(path)):
            raise InvalidInputError(f"{path} is in the way of a file of that commit", hint="move it away")


def _directories(path: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(path).parents][:-1]


def _refuse_loss(paths: set[str], verb: str) -> None:
    if paths:
        listed = ", ".join(sorted(paths)[:5]) + (" ..." if len(paths) > 5 else "")
        raise DirtyWorkTreeError(
            f"{_counted(len(paths), 'changed file')} would be {verb}, and no commit holds what is there: {listed}",
            hint="mvc commit -m MESSAGE first, or pass --force to lose them",
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def move_refs(session: Session, changes: Sequence[RefChange], actor: Actor) -> RefState:
    """Move refs from the old values that `changes` name.

    Raises
    ------
    ConflictError
        If another process moved one of them meanwhile, or names a commit that is to be thinned.
    NotFoundError
        If a new value is a commit of which garbage collection has removed something, or something was removed of one
        that is not to be thinned any more.
    ThinnedError
        If a new value is a commit that is thinned.
    FormatError
        If this release may not write the repository.
    """
    session.check_writable()
    wanted, refilled = _held_by(changes), _refilled_by(changes)

    def decide(current: RefState) -> tuple[RefChange, ...]:
        """Return the changes, unless one of the refs has moved since."""
        for change in changes:
            if current.refs.get(change.name) != change.old:
                raise ConflictError(f"{change.name} was moved by another process", hint="run the command again")
        check_not_thinned(session, current, wanted)
        if thinned := _thinned_by(changes):
            after = replace(current, refs=apply_changes(current.refs, changes))
            check_not_named(session, after, thinned)
        return tuple(changes)

    if not (wanted or refilled):
        return session.refs.update(decide, actor)
    with session.store.leases.take("moving refs", [*wanted, *refilled]) as lease:
        check_present(session, session.refs.state(), wanted)
        if refilled:
            check_contents(session, session.refs.state(), refilled)
        if not lease.renew():
            raise ConflictError("this process was taken for dead, and what it looked at may be gone", hint="try again")
        return session.refs.update(decide, actor)


def _held_by(changes: Sequence[RefChange]) -> list[ObjectId]:
    """Return the commits and tag objects that refs hold after `changes`."""
    return [object_id(change.new) for change in changes if change.new and not change.new.startswith(SYMBOLIC)]


def _refilled_by(changes: Sequence[RefChange]) -> list[ObjectId]:
    """Return the commits that are not to be thinned any more."""
    names = (change.name for change in changes if change.name.startswith(THINNED) and change.new is None)
    return [object_id(name.removeprefix(THINNED)) for name in names]


def _thinned_by(changes: Sequence[RefChange]) -> set[ObjectId]:
    """Return the commits that are to be thinned from now on, as when the undoing of a thinning is undone."""
    return {*thinned_in({change.name: change.new for change in changes if change.new})}


def remember_worktree(
    session: Session, commit: ObjectId | None, manifest: Manifest, before: RefState, written: dict[str, Tracked]
) -> None:
    """Have the dirty-check cache describe the new HEAD: what was written, and what stayed as it was."""
    tree = session.load_worktree()
    kept = tree.files if tree and tree.commit == before.head else {}
    files = {}
    for file in manifest.files:
        unknown = Tracked(file.mode, file.size, None)
        files[file.path] = written.get(file.path) or kept.get(file.path) or unknown
    session.save_worktree(WorkTree(commit, files))
