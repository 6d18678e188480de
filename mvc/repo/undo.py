"""``mvc undo`` and ``mvc op log``: every move of the refs is recorded, and can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mvc.errors import InvalidInputError
from mvc.objects.operation import Operation, RefChange
from mvc.objects.refnames import HEAD, REMOTES, TAGS, THINNED
from mvc.repo.checkout import bring_worktree, move_refs, session_status
from mvc.repo.clock import Actor
from mvc.repo.presence import reached
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import SYMBOLIC, RefState
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["UndoResult", "undo"]


@dataclass(frozen=True, slots=True)
class UndoResult:
    """What was taken back.

    Parameters
    ----------
    operation : ObjectId
        The operation that was undone.
    command : str
        What had made it.
    changes : tuple of RefChange
        What the undoing did.
    """

    operation: ObjectId
    command: str
    changes: tuple[RefChange, ...]


def undo(session: Session, actor: Actor, *, force: bool = False, progress: Progress = silent) -> UndoResult:
    """Take back the newest operation by a new one; undoing twice does it again.

    What was only heard of remotes, and tags that came along, is passed over: to forget it would undo nothing there.

    If the operation had moved HEAD to another branch or commit, or had merged something into its branch, the work tree
    goes back with it, as in ``mvc switch``. If it was a commit, the work tree stays as it is: what was committed shows
    up as modified.

    Raises
    ------
    InvalidInputError
        If there is nothing to take back.
    DirtyWorkTreeError
        Unless `force`, if the work tree would lose what no commit holds.
    ConflictError
        If another process moved a ref meanwhile.
    NotFoundError
        If garbage collection has freed what the undoing would bring back; if it was thinned, it says so.
    """
    session.check_writable()
    oid, operation = _last(session)
    moved = (change for change in operation.changes if not change.name.startswith(REMOTES))
    changes = tuple(replace(change, old=change.new, new=change.old) for change in moved)
    target = session.refs.state(operation.parents[0])
    if _went_elsewhere(session, operation, target.head):
        before = session_status(session)
        bring_worktree(session, before, target.head, changes, actor, force=force, progress=progress)
    else:
        move_refs(session, changes, actor)
    session.refresh()
    return UndoResult(oid, operation.command, changes)


def _is_hearsay(operation: Operation) -> bool:
    """Return whether an operation only noted what a remote has: its branches, and tags that were not here before.

    What it has brought may have been thinned before, and not be any more.
    """
    names = [change.name for change in operation.changes if change.new or not change.name.startswith(THINNED)]
    new_tags = all(change.old is None for change in operation.changes if change.name.startswith(TAGS))
    heard = all(name.startswith((REMOTES, TAGS)) for name in names) and any(name.startswith(REMOTES) for name in names)
    return heard and new_tags


def _last(session: Session) -> tuple[ObjectId, Operation]:
    """Return the newest operation that moved a ref of this repository."""
    for oid, operation in session.refs.walk():
        if operation.parents and not _is_hearsay(operation):
            return oid, operation
    raise InvalidInputError("there is nothing to undo: this is the first operation", hint="mvc op log")


def _went_elsewhere(session: Session, operation: Operation, before: ObjectId | None) -> bool:
    """Return True if an operation took the work tree along when it took HEAD to another commit; a commit does not."""
    state = session.refs.state()
    head = next((change.new for change in operation.changes if change.name == HEAD), None)
    if state.head == before:
        return False
    if head is None:
        return not _was_commit(session, operation, state, before)
    return head.startswith(SYMBOLIC) or state.head is None or session.record(state.head).named != (before,)


def _was_commit(session: Session, operation: Operation, state: RefState, before: ObjectId | None) -> bool:
    """Return True if an operation on the current branch was a commit, or the undoing of one.

    Of the two commits one is then on top of the other, and nothing else leads to it: else it was a fast-forward.
    """
    upper = next((new for new, old in ((state.head, before), (before, state.head)) if _is_on(session, new, old)), None)
    moved = {change.name for change in operation.changes}
    others = replace(state, refs={name: value for name, value in state.refs.items() if name not in moved})
    return upper is not None and not reached(session, others, {upper})


def _is_on(session: Session, upper: ObjectId | None, lower: ObjectId | None) -> bool:
    """Return True if one commit has the other as its only parent; a first commit is on None."""
    return upper is not None and session.record(upper).named == ((lower,) if lower else ())
