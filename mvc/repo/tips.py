"""Where history begins to be read: the commits that refs hold. What stands in for others is not a part of it."""

from __future__ import annotations

from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["commits_of_refs", "ref_names"]


def commits_of_refs(session: Session, state: RefState) -> dict[str, ObjectId]:
    """Return the commit of every ref by full name, tag objects followed; HEAD only where it is detached."""
    values = state.naming
    commits = session.records(values.values())
    return {name: oid if oid in commits else session.tag(oid).target for name, oid in values.items()}


def ref_names(session: Session, state: RefState) -> dict[ObjectId, list[str]]:
    """Return the full names of the refs by the commit that they hold."""
    result: dict[ObjectId, list[str]] = {}
    for name, oid in sorted(commits_of_refs(session, state).items()):
        result.setdefault(oid, []).append(name)
    return result
