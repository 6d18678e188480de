"""``mvc status``: what a commit would record that HEAD does not hold. Reads no tensor unless a file's stat changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from os import stat_result
from typing import Final

from mvc.errors import MvcError
from mvc.objects.manifest import Manifest
from mvc.repo.ignore import find_files, ignore_rules
from mvc.repo.refs import RefState
from mvc.repo.workspace import Workspace
from mvc.repo.worktree import Stamp, Tracked, WorkTree, settled
from mvc.types import ObjectId

__all__ = ["Status", "current_worktree", "file_mode", "status", "untouched"]

_EXECUTABLE: Final = 0o100
"""The owner's permission to execute: the one bit of the mode that a commit records, as in git."""


@dataclass(frozen=True, slots=True)
class Status:
    """The work tree against HEAD.

    Parameters
    ----------
    refs : RefState
        Refs at the time.
    added, modified, deleted : tuple of str
        Paths, sorted.
    """

    refs: RefState
    added: tuple[str, ...]
    modified: tuple[str, ...]
    deleted: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """True if a commit would record the tree of HEAD."""
        return not (self.added or self.modified or self.deleted)


def file_mode(status: stat_result) -> int:
    """Return the mode that a commit records: ``0o755`` if the owner may execute the file, else ``0o644``."""
    return 0o755 if status.st_mode & _EXECUTABLE else 0o644


def untouched(manifest: Manifest, commit: ObjectId) -> WorkTree:
    """Return the cache for a commit of whose files nothing is known in this work tree."""
    files = {file.path: Tracked(file.mode, file.size, None) for file in manifest.files}
    return WorkTree(commit, files)


def current_worktree(workspace: Workspace, state: RefState, manifest: Callable[[ObjectId], Manifest]) -> WorkTree:
    """Return the cache for HEAD, made from its manifest where the stored one is missing or of another commit."""
    tree = workspace.load_worktree()
    if tree is not None and tree.commit == state.head:
        return tree
    return untouched(manifest(state.head), state.head) if state.head else WorkTree(None)


def status(
    workspace: Workspace,
    manifest: Callable[[ObjectId], Manifest],
    differs: Callable[[ObjectId, str], bool],
) -> Status:
    """Compare the work tree with HEAD.

    Parameters
    ----------
    workspace : Workspace
        The repository.
    manifest : callable
        Loads a commit's manifest; called only when the cache does not describe HEAD.
    differs : callable
        Says whether the file at a path has other content than in a commit; called only for a file of the right size
        whose stat is not the one that is known.

    Returns
    -------
    Status
        Files whose stat changed but whose content did not count as unchanged, and the cache learns their new stat.
    """
    root = workspace.layout.tree
    state = workspace.refs.state()
    tree = current_worktree(workspace, state, manifest)
    found = {file.path: file.status for file in find_files(root, ignore_rules(root)) if file.regular}
    modified, learnt = [], {}
    for path in sorted(found.keys() & tree.files.keys()):
        known = _examine(found[path], tree.files[path], partial(differs, _commit(tree), path))
        if known is None:
            modified.append(path)
        elif known != tree.files[path]:
            learnt[path] = known
    if learnt:
        with suppress(MvcError):  # a cache: who may only read does without
            workspace.save_worktree(replace(tree, files={**tree.files, **learnt}))
    added = sorted(found.keys() - tree.files.keys())
    deleted = sorted(tree.files.keys() - found.keys())
    return Status(state, tuple(added), tuple(modified), tuple(deleted))


def _commit(tree: WorkTree) -> ObjectId:
    if tree.commit is None:
        raise AssertionError("a work tree with files belongs to a commit")
    return tree.commit


def _examine(status_: stat_result, tracked: Tracked, differs: Callable[[], bool]) -> Tracked | None:
    """Return what is now known of an unchanged file, or None if it changed."""
    if status_.st_size != tracked.size or file_mode(status_) != tracked.mode:
        return None
    stamp = Stamp.of(status_)
    if tracked.stamp == stamp:
        return tracked
    started = time.time_ns()
    return None if differs() else replace(tracked, stamp=settled(stamp, started))
