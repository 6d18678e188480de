"""Comparing the SQLite index with what it is derived from. Whatever is wrong with it, no content is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mvc.errors import StorageError
from mvc.index import BlobRecord, CommitRecord, Database, chained, placed
from mvc.index.condition import condition
from mvc.objects.blob import depth_above
from mvc.repo.check_copies import Copies, Copy
from mvc.repo.check_history import History
from mvc.repo.session import Session
from mvc.types import ObjectId

__all__ = ["damage_of_index", "disagreement"]


def damage_of_index(session: Session) -> str | None:
    """Return what is wrong with the file of the index, or None."""
    return condition(session.layout.index)[1]


def disagreement(session: Session, operation: ObjectId, copies: Copies, history: History) -> str | None:
    """Return in what the index contradicts the store, or None.

    What a killed process left is no contradiction: an index of an older operation, one that lacks what no ref reaches,
    one that names files that are gone. The next command, or reading, copes with all of them.

    Parameters
    ----------
    session : Session
        The repository, whose store is sound.
    operation : ObjectId
        Its newest operation.
    copies : Copies
        What is stored.
    history : History
        What the refs reach.
    """
    comparable, _ = condition(session.layout.index)
    if not comparable:
        return None
    try:
        found = Database(session.layout.index)
        if found.operation() != operation:
            return None
        return _blobs(found, copies, history) or _objects(found, copies, history) or _commits(found, history)
    except StorageError as error:
        return error.message


def _record(copy: Copy) -> BlobRecord:
    """Return what the index says of a blob, before its chain is worked out."""
    assert copy.content is not None, "every blob of a sound repository could be opened"
    length, depth = copy.location.length, depth_above(copy.sides)
    return BlobRecord(copy.oid, copy.content, copy.location, copy.raw_bytes, copy.codec, copy.sides, depth, length)


def _blobs(found: Database, copies: Copies, history: History) -> str | None:
    stored = chained(_record(copy) for copy in copies.all() if not copy.is_metadata)
    ours, theirs = _by_place(found.all_blobs()), _by_place(stored)
    same = ours.keys() == theirs.keys()
    for place in ours.keys() & theirs.keys():
        if (ours[place] if same else _own(ours[place])) != (theirs[place] if same else _own(theirs[place])):
            return f"it says of blob {place[0]} what the store does not"
    known = {oid for oid, _ in ours}
    missing = next((oid for _, oid in history.contents if oid not in known), None)
    return f"it does not know content {missing}, which a commit needs" if missing else None


def _by_place(records: Iterable[BlobRecord]) -> dict[tuple[ObjectId, ObjectId | None], BlobRecord]:
    return {(record.id, record.location.pack): record for record in records}


def _own(record: BlobRecord) -> BlobRecord:
    """Return a record without what follows from other records."""
    return replace(record, depth=0, chain_bytes=0)


def _objects(found: Database, copies: Copies, history: History) -> str | None:
    stored = {oid for oid, copy in copies.good.items() if copy.is_metadata}
    ours = found.objects(stored)
    places = {(copy.oid, copy.location) for copy in copies.all()}
    packs = {location.pack for _, location in places}
    wrong = [oid for oid, location in ours.items() if location.pack in packs and (oid, location) not in places]
    wrong += [oid for oid in history.metadata if oid in stored and oid not in ours]
    return f"it does not say where object {wrong[0]} is" if wrong else None


def _commits(found: Database, history: History) -> str | None:
    sizes = history.sizes
    below = {parent for commit in history.commits.values() for parent in commit.parents} - history.commits.keys()
    known = found.commits(below)  # absent by design, and yet there: garbage, or what a fetch has just brought
    expected = placed((CommitRecord.of(commit, sizes[commit.manifest]) for commit in history.commits.values()), known)
    recorded = {oid: _facts(record) for oid, record in found.commits(history.commits).items()}
    other = next((record.id for record in expected if recorded.get(record.id) != _facts(record)), None)
    return f"it says of commit {other} what the store does not" if other else None


def _facts(record: CommitRecord) -> tuple[CommitRecord, str]:
    """Return a record so that it can be compared: no NaN is equal to another one."""
    return replace(record, metadata={}), repr(sorted(record.metadata.items()))
