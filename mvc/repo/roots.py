"""What must stay, and why: refs, the operation log of some time, and what processes at work build on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mvc.objects.operation import RefChange
from mvc.objects.refnames import BRANCHES, HEAD, NOTES, REMOTES, TAGS, THINNED
from mvc.repo.refs import SYMBOLIC, RefState, Thinned
from mvc.repo.session import Session
from mvc.types import ObjectId, object_id

__all__ = ["Reason", "Root", "roots", "roots_of_refs"]

Reason = Literal["branches", "tags", "remotes", "notes", "HEAD", "operation log", "leases"]
"""Why a commit stays."""
_REASONS: Final[Mapping[str, Reason]] = {BRANCHES: "branches", TAGS: "tags", REMOTES: "remotes", NOTES: "notes"}


@dataclass(frozen=True, slots=True)
class Root:
    """A commit or tag object that must stay, with all that it reaches.

    Parameters
    ----------
    id : ObjectId
        The object.
    reason : Reason
        What holds it.
    name : str
        Which branch, operation or process.
    entire : bool
        Its own contents must stay also if it is thinned.
    """

    id: ObjectId
    reason: Reason
    name: str
    entire: bool = False

    @property
    def is_ref(self) -> bool:
        """True if a ref holds it: then everything that it reaches must be there. Others may have lost something."""
        return self.reason in {"branches", "tags", "remotes", "notes", "HEAD"}


def roots(session: Session, since: int) -> tuple[list[Root], Thinned]:
    """Return all roots, those that matter most first, and what refs say of thinned commits.

    An object may occur several times. A commit is a root with all its contents, thinned or not, if an operation since
    then has changed what refs say of that, so that it can be undone; or if a process has pinned it, so that it may be
    reading it.

    Parameters
    ----------
    session : Session
        The repository.
    since : int
        What refs held before an operation of this time or later stays; microseconds since 1970-01-01T00:00:00Z.

    Raises
    ------
    IntegrityError
        If the operation log cannot be read that far.
    """
    leases = session.store.leases.live()  # before the refs: a lease ends after its process has moved one
    state = session.refs.state()
    held = roots_of_refs(state)
    pinned = [
        Root(pin, "leases", f"process {lease.process}, {lease.command}", entire=True)
        for lease in leases
        for pin in sorted(lease.pins)
    ]
    return [*held, *_of_operations(session, state.operation, since), *pinned], state.thinned


def roots_of_refs(state: RefState) -> list[Root]:
    """Return the roots that refs are; those that say what is thinned are none."""
    return [_of_ref(name, value) for name, value in sorted(state.naming.items())]


def _of_ref(name: str, value: ObjectId) -> Root:
    for prefix, reason in _REASONS.items():
        if name.startswith(prefix):
            return Root(value, reason, name.removeprefix(prefix))
    return Root(value, "HEAD", HEAD)


def _of_operations(session: Session, newest: ObjectId, since: int) -> Iterator[Root]:
    """Yield what the operations since a time have moved refs from and to."""
    for _, operation in session.refs.walk(newest):
        if operation.time < since:
            continue  # not the end: clocks differ, and operations of several machines stand behind each other
        name = f"operation {operation.number}, {operation.command}"
        for change in operation.changes:
            yield from (Root(oid, "operation log", name) for oid in _values(change))
            if change.name.startswith(THINNED):
                yield Root(object_id(change.name.removeprefix(THINNED)), "operation log", name, entire=True)


def _values(change: RefChange) -> list[ObjectId]:
    values = (change.old, change.new)
    return [object_id(value) for value in values if value and not value.startswith(SYMBOLIC)]
