"""Refs: read from the newest operation, moved by appending one (spec-v1, sections 4 and 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from mvc.errors import ConflictError, IntegrityError, NotFoundError
from mvc.objects.operation import VIEW_INTERVAL, Operation, RefChange, Refs, apply_changes
from mvc.objects.refnames import BRANCHES, HEAD, THINNED, check_ref_names
from mvc.repo.clock import Actor, now
from mvc.repo.remembering import remembering
from mvc.store.op_head import OpHead
from mvc.store.operations import OperationStore
from mvc.types import ObjectId, object_id

__all__ = ["SYMBOLIC", "RefLog", "RefState", "Thinned", "attach", "thinned_in"]

SYMBOLIC: Final = "ref: "
_ATTEMPTS: Final = 1000
"""Tries to append an operation. Each failure means that another writer succeeded, so the system as a whole advances."""
_KEPT: Final = 4 * VIEW_INTERVAL
"""Operations kept decoded in memory: every question goes back to a view, `VIEW_INTERVAL` operations at most."""


Thinned = Mapping[ObjectId, ObjectId | None]
"""Commits whose contents may be absent, and what stands in for each; None where nothing does."""


def thinned_in(refs: Refs) -> Thinned:
    """Return the commits that `refs` say are thinned (spec-v1, section 12)."""
    found = {name.removeprefix(THINNED): value for name, value in refs.items() if name.startswith(THINNED)}
    return {object_id(oid): None if value == oid else object_id(value) for oid, value in found.items()}


def attach(branch: str) -> str:
    """Return the value of HEAD that follows the full ref name `branch`."""
    return SYMBOLIC + branch


@dataclass(frozen=True, slots=True)
class RefState:
    """All refs after one operation.

    Parameters
    ----------
    operation : ObjectId
        The operation.
    number : int
        Its number.
    refs : Refs
        Full ref name -> value.
    appended_to : ObjectId, optional
        The operation before, if this process has just appended `operation` to it.
    """

    operation: ObjectId
    number: int
    refs: Refs
    appended_to: ObjectId | None = None

    @property
    def branch(self) -> str | None:
        """Full name of the branch that HEAD follows, or None when it is detached."""
        head = self.refs.get(HEAD, "")
        return head.removeprefix(SYMBOLIC) if head.startswith(SYMBOLIC) else None

    @property
    def head(self) -> ObjectId | None:
        """The commit that HEAD leads to, or None on a branch without commits."""
        value = self.refs.get(self.branch) if self.branch else self.refs.get(HEAD)
        return object_id(value) if value else None

    @property
    def moving_ref(self) -> str:
        """The ref that a new commit moves: the branch, or HEAD itself when detached."""
        return self.branch or HEAD

    @property
    def thinned(self) -> Thinned:
        """The commits whose contents may be absent."""
        return thinned_in(self.refs)

    @property
    def naming(self) -> dict[str, ObjectId]:
        """What refs name, by full name: those that say what is thinned, and HEAD where a branch has it, left out."""
        return {
            name: object_id(value)
            for name, value in self.refs.items()
            if not name.startswith(THINNED) and not value.startswith(SYMBOLIC)
        }

    def branches(self) -> dict[str, ObjectId]:
        """Return commit by short name of every branch."""
        return {n.removeprefix(BRANCHES): object_id(v) for n, v in sorted(self.refs.items()) if n.startswith(BRANCHES)}


class RefLog:
    """The operation log of one repository.

    Parameters
    ----------
    operations : OperationStore
        Where operations are kept.
    head : OpHead
        The pointer to the newest.
    """

    def __init__(self, operations: OperationStore, head: OpHead) -> None:
        self._operations = operations
        self._head = head
        self._operation = remembering(self._read, _KEPT)

    def newest(self) -> tuple[int, ObjectId]:
        """Return number and id of the newest operation.

        Raises
        ------
        NotFoundError
            If there is none, as in a repository whose creation was interrupted.
        IntegrityError
            If there are operations, but the pointer to the newest is lost.
        """
        head = self._head.read()
        if head is not None:
            return head
        if next(self._operations.ids(), None) is None:
            raise NotFoundError("the repository has no operation: its creation was interrupted", hint="mvc init")
        raise IntegrityError(
            "the pointer to the newest operation is lost, though there are operations",
            hint="restore .mvc/op_head from a copy",
        )

    def operation(self, oid: ObjectId) -> Operation:
        """Return one operation.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        return self._operation(oid)

    def _read(self, oid: ObjectId) -> Operation:
        try:
            return Operation.decode(self._operations.read(oid))
        except NotFoundError as error:
            raise IntegrityError(f"operation {oid} is missing from the log", hint="mvc fsck") from error

    def walk(self, start: ObjectId | None = None) -> Iterator[tuple[ObjectId, Operation]]:
        """Yield operations from `start` (default: the newest) along first parents."""
        oid: ObjectId | None = start or self.newest()[1]
        while oid is not None:
            operation = self.operation(oid)
            yield oid, operation
            oid = operation.parents[0] if operation.parents else None

    def state(self, operation: ObjectId | None = None) -> RefState:
        """Return all refs after `operation` (default: the newest).

        Raises
        ------
        IntegrityError
            If no operation on the way holds a view.
        """
        path: list[Operation] = []
        for _, item in self.walk(operation):
            path.append(item)
            if item.view is not None:
                return _replay(path)
        raise IntegrityError("no operation holds a view of the refs", hint="mvc fsck")

    def update(self, decide: Callable[[RefState], tuple[RefChange, ...]], actor: Actor) -> RefState:
        """Move refs by appending an operation.

        Parameters
        ----------
        decide : callable
            Gets the newest state and returns the changes. Called again whenever another writer was faster; it raises
            `ConflictError` where the new state no longer allows the change.
        actor : Actor
            Who, and by which command.

        Returns
        -------
        RefState
            After the operation; the unchanged state if there was nothing to change.

        Raises
        ------
        ConflictError
            If `decide` raises it.
        InvalidInputError
            If the refs would no longer stand side by side.
        """
        for _ in range(_ATTEMPTS):
            state = self.state()
            changes = tuple(sorted((c for c in decide(state) if c.old != c.new), key=lambda change: change.name))
            if not changes:
                return state
            operation = _next(state, changes, actor)
            self._operations.write(operation.encoded)
            try:
                self._head.advance(operation.number, operation.id, self._is_ancestor)
            except ConflictError:
                continue
            return RefState(operation.id, operation.number, apply_changes(state.refs, changes), state.operation)
        raise ConflictError(f"{_ATTEMPTS} other writers were faster", hint="run the command again")

    def start(self, refs: Refs, actor: Actor) -> None:
        """Write operation 0 of a new repository.

        Raises
        ------
        ConflictError
            If there is one already.
        """
        changes = tuple(RefChange(name, None, value) for name, value in sorted(refs.items()))
        operation = Operation(0, (), changes, refs, actor.command, actor.author, actor.host, now())
        self._operations.write(operation.encoded)
        self._head.advance(0, operation.id, self._is_ancestor)

    def _is_ancestor(self, oid: ObjectId, head: ObjectId) -> bool:
        least = self.operation(oid).number
        for candidate, operation in self.walk(head):
            if operation.number <= least:
                return candidate == oid
        return False


def _replay(path: list[Operation]) -> RefState:
    """Return the state after ``path[0]``, given the operations back to one with a view."""
    refs = dict(path[-1].view or {})
    for operation in reversed(path[:-1]):
        refs = apply_changes(refs, operation.changes)
    return RefState(path[0].id, path[0].number, refs)


def _next(state: RefState, changes: tuple[RefChange, ...], actor: Actor) -> Operation:
    refs = apply_changes(state.refs, changes)
    check_ref_names(set(refs) - {HEAD})
    number = state.number + 1
    view = refs if number % VIEW_INTERVAL == 0 else None
    return Operation(number, (state.operation,), changes, view, actor.command, actor.author, actor.host, now())
