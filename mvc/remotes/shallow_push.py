"""What a remote lacks of a history that is shallow here: it has to be asked, since what its refs reach is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mvc.errors import InvalidInputError
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings
from mvc.remotes.metadata_walk import MetadataWalk
from mvc.remotes.negotiation import Between, commits_between
from mvc.repo.log import history
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["between_shallow"]


def between_shallow(
    session: Session, engine: Engine, holdings: Holdings, tips: Sequence[ObjectId], theirs: Iterable[ObjectId]
) -> Between:
    """Return the commits that `tips` reach and no ref of a remote does, by reading the history of the remote.

    Parameters
    ----------
    session : Session
        The repository.
    engine : Engine
        The remote.
    holdings : Holdings
        What it holds.
    tips : sequence of ObjectId
        Commits here.
    theirs : iterable of ObjectId
        Commits and tag objects that refs of the remote hold.

    Raises
    ------
    InvalidInputError
        If the remote lacks commits that are absent here.
    """
    walk = MetadataWalk(engine, holdings, lambda _: (), lambda _: ())
    walk.follow(theirs)
    haves = {record.id for record in history(session, tips)} & walk.commits.keys()
    found = commits_between(session, tips, haves)
    for record in found.commits:
        if not walk.commits.keys() >= {*record.absent}:
            raise InvalidInputError(
                f"history is shallow, and {engine.url} lacks what comes before {record.id[:12]}",
                hint="mvc fetch --unshallow from where it was cloned, then push",
            )
    return found
