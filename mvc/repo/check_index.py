"""Comparing the SQLite index with what it is derived from. Whatever is wrong with it, no content is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mvc.errors import StorageError
from mvc.index import BlobRecord, CommitRecord, Database, chained, placed
from mvc.index.condition import condition
from mvc.index.fingerprint import add_up, history_print, of_commits, of_stored, store_print
from mvc.objects.blob import depth_above
from mvc.repo.check_copies import Copies, Copy
from mvc.repo.check_history import History
from mvc.repo.session import Session
from mvc.store.layout import Location, StoredObject
from mvc.types import ObjectId

__all__ = ["Agreement", "compare", "damage_of_index", "record_of"]


def damage_of_index(session: Session) -> str | None:
    """Return what is wrong with the file of the index, or None."""
    return condition(session.layout.index)[1]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The index says of some files, and of all that the refs reach, what the store does, and nothing of other files.

    Parameters
    ----------
    rows : int
        Fingerprint of what it says.
    packs, loose : frozenset of ObjectId
        The files. Whatever the refs reach lies in them, with what is needed to decode it.
    """

    rows: int
    packs: frozenset[ObjectId]
    loose: frozenset[ObjectId]

    def covers(self, oid: ObjectId, location: Location) -> bool:
        """Return whether what lies there is known to the index."""
        return location.pack in self.packs if location.pack else oid in self.loose


def compare(session: Session, operation: ObjectId, copies: Copies, history: History) -> Agreement | str | None:
    """Return in what the index agrees with the store, or in what it contradicts it; None if neither can be said.

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
        return _agreement(found, copies, history) or (
            _blobs(found, copies, history) or _objects(found, copies, history) or _commits(found, history)
        )
    except StorageError as error:
        return error.message


def _agreement(found: Database, copies: Copies, history: History) -> Agreement | None:
    """Return that the index agrees, if it does: the same would come of comparing each row."""
    with found.still():
        rows = add_up(*store_print(found), history_print(found, history.commits))
        known = Agreement(rows, frozenset(found.packs()), frozenset(found.loose()))
    there = [copy for copy in copies.all() if known.covers(copy.oid, copy.location)]
    reached = {*history.metadata, *(oid for _, oid in history.contents)}
    if not reached.issubset({copy.oid for copy in there}):
        return None
    blobs = chained(record_of(copy) for copy in there if not copy.is_metadata)
    others = [StoredObject(copy.oid, copy.kind, copy.location) for copy in there if copy.is_metadata]
    expected = add_up(of_stored(blobs, others), of_commits(_records(history)))
    return known if rows == expected and all(blob.reachable for blob in blobs) else None


def _records(history: History) -> list[CommitRecord]:
    return placed(CommitRecord.of(commit, history.sizes[commit.manifest]) for commit in history.commits.values())


def record_of(copy: Copy) -> BlobRecord:
    """Return what the index says of a blob, before its chain is worked out."""
    assert copy.content is not None, "every blob of a sound repository could be opened"
    length, depth = copy.location.length, depth_above(copy.sides)
    return BlobRecord(copy.oid, copy.content, copy.location, copy.raw_bytes, copy.codec, copy.sides, depth, length)


def _blobs(found: Database, copies: Copies, history: History) -> str | None:
    stored = chained(record_of(copy) for copy in copies.all() if not copy.is_metadata)
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
    recorded = {oid: _facts(record) for oid, record in found.commits(history.commits).items()}
    other = next((record.id for record in _records(history) if recorded.get(record.id) != _facts(record)), None)
    return f"it says of commit {other} what the store does not" if other else None


def _facts(record: CommitRecord) -> tuple[CommitRecord, str]:
    """Return a record so that it can be compared: no NaN is equal to another one."""
    return replace(record, metadata={}), repr(sorted(record.metadata.items()))
