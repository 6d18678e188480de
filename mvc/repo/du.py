"""``mvc du``: what history would take as plain copies, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from mvc.index import CodecTotal
from mvc.repo.log import history
from mvc.repo.session import Session
from mvc.repo.tips import commits_of_refs
from mvc.store.object_store import StoredBytes

__all__ = ["DiskUse", "disk_use"]


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Logical and stored size of a repository.

    Parameters
    ----------
    commits : int
        Commits that refs reach.
    logical_bytes : int
        Sizes of all files of all these commits, less those that are thinned.
    stored : StoredBytes
        Bytes below ``.mvc`` that hold objects.
    by_encoding : tuple of CodecTotal
        Blobs by codec.
    thinned : int
        Those of the commits that are thinned.
    """

    commits: int
    logical_bytes: int
    stored: StoredBytes
    by_encoding: tuple[CodecTotal, ...]
    thinned: int = 0

    @property
    def ratio(self) -> float:
        """Stored over logical bytes; 0 if there are no files."""
        return self.stored.total / self.logical_bytes if self.logical_bytes else 0.0


def disk_use(session: Session) -> DiskUse:
    """Measure the repository."""
    state = session.refs.state()
    records = list(history(session, commits_of_refs(session, state).values()))
    whole = [record for record in records if record.id not in state.thinned]
    return DiskUse(
        len(records),
        sum(record.logical_bytes for record in whole),
        session.store.stored_bytes(),
        tuple(session.index.codec_totals()),
        len(records) - len(whole),
    )
