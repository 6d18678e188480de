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
        Sizes of all files of all these commits.
    stored : StoredBytes
        Bytes below ``.mvc`` that hold objects.
    by_encoding : tuple of CodecTotal
        Blobs by codec.
    """

    commits: int
    logical_bytes: int
    stored: StoredBytes
    by_encoding: tuple[CodecTotal, ...]

    @property
    def ratio(self) -> float:
        """Stored over logical bytes; 0 if there are no files."""
        return self.stored.total / self.logical_bytes if self.logical_bytes else 0.0


def disk_use(session: Session) -> DiskUse:
    """Measure the repository."""
    tips = commits_of_refs(session, session.refs.state())
    records = list(history(session, tips.values()))
    return DiskUse(
        len(records),
        sum(record.logical_bytes for record in records),
        session.store.stored_bytes(),
        tuple(session.index.codec_totals()),
    )
