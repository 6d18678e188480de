"""``mvc reindex``: make the index again from the store."""

from __future__ import annotations

from dataclasses import dataclass

from mvc.index import Database, synchronise
from mvc.repo.session import Session

__all__ = ["ReindexResult", "reindex"]


@dataclass(frozen=True, slots=True)
class ReindexResult:
    """What the new index holds.

    Parameters
    ----------
    packs, blobs : int
        How many of each.
    """

    packs: int
    blobs: int


def reindex(session: Session) -> ReindexResult:
    """Drop the index and the indexes of packs, and make them again from the packs and loose blobs.

    Raises
    ------
    IntegrityError
        If a pack or a manifest is corrupt.
    """
    for pack in session.store.pack_ids():
        session.store.packs.rebuild_index(pack)
    database = Database(session.layout.index)
    database.clear()
    synchronise(database, session.store, session.refs.newest()[1])
    return ReindexResult(len(database.packs()), len(database.all_blobs()))
