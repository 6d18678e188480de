"""What must stay, and why: refs, the operation log of some time, and what processes at work build on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mvc.objects.refnames import BRANCHES, HEAD, NOTES, REMOTES, TAGS
from mvc.repo.refs import SYMBOLIC
from mvc.repo.session import Session
from mvc.types import ObjectId, object_id

__all__ = ["Reason", "Root", "roots"]

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
    """

    id: ObjectId
    reason: Reason
    name: str

    @property
    def is_ref(self) -> bool:
        """True if a ref holds it: then everything that it reaches must be there. Others may have lost something."""
        return self.reason in {"branches", "tags", "remotes", "notes", "HEAD"}


def roots(session: Session, since: int) -> list[Root]:
    """Return all roots, those that matter most first; an object may occur several times.

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
    held = [_of_ref(name, value) for name, value in sorted(state.refs.items()) if not value.startswith(SYMBOLIC)]
    pinned = [
        Root(pin, "leases", f"process {lease.process}, {lease.command}")
        for lease in leases
        for pin in sorted(lease.pins)
    ]
    return [*held, *_of_operations(session, state.operation, since), *pinned]


def _of_ref(name: str, value: str) -> Root:
    for prefix, reason in _REASONS.items():
        if name.startswith(prefix):
            return Root(object_id(value), reason, name.removeprefix(prefix))
    return Root(object_id(value), "HEAD", HEAD)


def _of_operations(session: Session, newest: ObjectId, since: int) -> Iterator[Root]:
    """Yield what the operations since a time have moved refs from and to."""
    for _, operation in session.refs.walk(newest):
        if operation.time < since:
            continue  # not the end: clocks differ, and operations of several machines stand behind each other
        for change in operation.changes:
            for value in (change.old, change.new):
                if value and not value.startswith(SYMBOLIC):
                    yield Root(object_id(value), "operation log", f"operation {operation.number}, {operation.command}")
