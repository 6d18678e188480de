"""Comparing the SQLite index with what it is derived from. Whatever is wrong with it, no content is lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mvc.errors import StorageError
from mvc.index import Additions, BlobRecord, CommitRecord, Database, Update, extend
from mvc.index.condition import condition
from mvc.objects.blob import depth_above
from mvc.repo.check_copies import Copies, Copy
from mvc.repo.check_history import History
from mvc.repo.session import Session
from mvc.store.object_store import ObjectStore
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
        derived = _derived(session.store, operation, copies, history) if found.operation() == operation else None
        if derived is None:
            return None
        return _blobs(found, derived, history) or _metadata(found, derived, copies, history)
    except StorageError as error:
        return error.message


def _derived(store: ObjectStore, operation: ObjectId, copies: Copies, history: History) -> Database | None:
    """Return what the index should say, from what was read already; None if loose blobs are others by now."""
    database = Database(None)
    database.apply(Update(operation))
    blobs = [_record(copy) for copy in copies.all() if not copy.is_metadata]
    commits = [CommitRecord.of(commit, history.sizes[commit.manifest]) for commit in history.commits.values()]
    return database if extend(database, store, operation, operation, Additions(blobs, (), commits)) else None


def _record(copy: Copy) -> BlobRecord:
    """Return what the index says of a blob, before its chain is worked out."""
    assert copy.content is not None, "every blob of a sound repository could be opened"
    length, depth = copy.location.length, depth_above(copy.sides)
    return BlobRecord(copy.oid, copy.content, copy.location, copy.raw_bytes, copy.codec, copy.sides, depth, length)


def _blobs(found: Database, derived: Database, history: History) -> str | None:
    ours, theirs = _by_place(found.all_blobs()), _by_place(derived.all_blobs())
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


def _metadata(found: Database, derived: Database, copies: Copies, history: History) -> str | None:
    stored = {oid for oid, copy in copies.good.items() if copy.is_metadata}
    ours = found.objects(stored)
    places = {(copy.oid, copy.location) for copy in copies.all()}
    packs = {location.pack for _, location in places}
    wrong = [oid for oid, location in ours.items() if location.pack in packs and (oid, location) not in places]
    wrong += [oid for oid in history.metadata if oid in stored and oid not in ours]
    if wrong:
        return f"it does not say where object {wrong[0]} is"
    recorded, expected = found.commits(history.commits), derived.commits(history.commits)
    other = next((oid for oid in history.commits if recorded.get(oid) != expected.get(oid)), None)
    return f"it says of commit {other} what the store does not" if other else None
