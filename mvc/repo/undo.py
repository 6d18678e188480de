"""``mvc undo`` and ``mvc op log``: every move of the refs is recorded, and can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mvc.errors import InvalidInputError
from mvc.objects.operation import Operation, RefChange
from mvc.objects.refnames import HEAD
from mvc.repo.checkout import bring_worktree, move_refs, session_status
from mvc.repo.clock import Actor
from mvc.repo.progress import Progress, silent
from mvc.repo.refs import SYMBOLIC
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

    If the operation had moved HEAD to another branch or commit, the work tree goes back with it, as in ``mvc switch``.
    If it was a commit, the work tree stays as it is: what was committed shows up as modified.

    Raises
    ------
    InvalidInputError
        If there is nothing to take back.
    DirtyWorkTreeError
        Unless `force`, if the work tree would lose what no commit holds.
    ConflictError
        If another process moved a ref meanwhile.
    """
    session.check_writable()
    oid, operation = next(session.refs.walk())
    if not operation.parents:
        raise InvalidInputError("there is nothing to undo: this is the first operation", hint="mvc op log")
    changes = tuple(replace(change, old=change.new, new=change.old) for change in operation.changes)
    target = session.refs.state(operation.parents[0])
    if _went_elsewhere(session, operation, target.head):
        before = session_status(session)
        bring_worktree(session, before, target.head, changes, actor, force=force, progress=progress)
    else:
        move_refs(session, changes, actor)
    session.refresh()
    return UndoResult(oid, operation.command, changes)


def _went_elsewhere(session: Session, operation: Operation, before: ObjectId | None) -> bool:
    """Return True if an operation took HEAD, and so the work tree, to another commit; one on top of it does not."""
    head = next((change.new for change in operation.changes if change.name == HEAD), None)
    now = session.refs.state().head
    if head is None or now is None or now == before:
        return head is not None and now != before
    committed = not head.startswith(SYMBOLIC) and before in session.record(now).parents[:1]
    return not committed
