"""Bring the index up to date with the store, from nothing if need be: the index never knows what the store does not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from mvc.errors import IntegrityError
from mvc.index.database import Database, Update
from mvc.index.records import BlobRecord, CommitRecord
from mvc.objects.blob import Envelope
from mvc.objects.commit import Commit
from mvc.objects.manifest import Manifest
from mvc.store.layout import EntryKind, Location, PackEntry, StoredObject
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

_LOGGER: Final = logging.getLogger(__name__)

__all__ = ["blob_records", "commit_record", "synchronise"]


def synchronise(database: Database, store: ObjectStore, operation: ObjectId) -> bool:
    """Make `database` describe the packs and loose blobs that `store` holds now.

    Parameters
    ----------
    database : Database
        Changed in one transaction.
    store : ObjectStore
        Read only: pack indexes, blob headers, and the metadata of what is new.
    operation : ObjectId
        The newest operation, read before this call. The index is said to describe it.

    Returns
    -------
    bool
        True if anything had to be done.

    Raises
    ------
    IntegrityError
        If a pack or blob header is corrupt, or a commit's manifest is missing.
    """
    if database.operation() == operation:
        return False
    known, there = database.packs(), set(store.pack_ids())
    new_packs, gone = sorted(there - known), sorted(known - there)
    known_loose, loose = database.loose(), set(store.loose.ids())
    found = [_stored(pack, entry) for pack in new_packs for entry in store.packs.entries(pack)]
    sizes = {oid: store.loose.size(oid) for oid in sorted(loose - known_loose)}
    found += [StoredObject(oid, None, Location(None, 0, size)) for oid, size in sizes.items() if size]
    database.apply(
        Update(
            operation,
            new_packs,
            gone,
            _read_blobs(database, store, found),
            sorted(known_loose - loose),
            [(e.oid, e.kind.name.lower(), e.location) for e in found if e.kind is not None and e.kind.is_metadata],
            _read_commits(database, store, found),
        )
    )
    return True


def _stored(pack: ObjectId, entry: PackEntry) -> StoredObject:
    return StoredObject(entry.oid, entry.kind, Location(pack, entry.offset, entry.length))


def _read_blobs(database: Database, store: ObjectStore, found: Iterable[StoredObject]) -> list[BlobRecord]:
    entries = [entry for entry in found if entry.kind is None or not entry.kind.is_metadata]
    return blob_records(database, (blob for entry in entries if (blob := _read_blob(store, entry))))


def _read_blob(store: ObjectStore, entry: StoredObject) -> tuple[Envelope, Location] | None:
    """Return the envelope of a blob, or None if it is corrupt: to the index it is then missing, and fsck names it."""
    try:
        return Envelope.decode(store.read(entry.oid, entry.location)), entry.location
    except IntegrityError as error:
        _LOGGER.warning("blob %s is left out of the index: %s", entry.oid, error)
        return None


def blob_records(database: Database, envelopes: Iterable[tuple[Envelope, Location]]) -> list[BlobRecord]:
    """Return what the index records of new blobs, bases before the deltas on them.

    Raises
    ------
    IntegrityError
        If deltas form a cycle.
    """
    new: dict[ObjectId, list[tuple[Envelope, Location]]] = {}
    for envelope, location in envelopes:
        new.setdefault(envelope.id, []).append((envelope, location))
    outside = {base for items in new.values() for e, _ in items if (base := _base(e)) and base not in new}
    best = dict(database.blobs(outside))
    result = []
    for oid in _bases_first({oid: {_base(e) for e, _ in items} for oid, items in new.items()}):
        for envelope, location in new.get(oid, ()):
            record = _blob_record(envelope, location, best)
            result.append(record)
            if oid not in best or record.chain_bytes < best[oid].chain_bytes:
                best[oid] = record
    return result


def _base(envelope: Envelope) -> ObjectId | None:
    return envelope.references[0].id if envelope.references else None


def _bases_first(edges: Mapping[ObjectId, set[ObjectId | None]]) -> Sequence[ObjectId]:
    graph = {oid: {base for base in bases if base in edges} for oid, bases in edges.items()}
    try:
        return [oid for oid in TopologicalSorter(graph).static_order() if oid is not None]
    except CycleError as error:
        raise IntegrityError(f"the deltas of {error.args[1][0]} form a cycle", hint="mvc fsck") from error


def _blob_record(envelope: Envelope, location: Location, known: Mapping[ObjectId, BlobRecord]) -> BlobRecord:
    below = known.get(base) if (base := _base(envelope)) else None
    return BlobRecord(
        envelope.id,
        envelope.kind,
        location,
        envelope.spec.nbytes,
        envelope.codec,
        base,
        below.depth + 1 if below else envelope.depth,
        location.length + (below.chain_bytes if below else 0),
    )


def _read_commits(database: Database, store: ObjectStore, found: Iterable[StoredObject]) -> list[CommitRecord]:
    entries = list(found)
    commits = {e.oid: Commit.decode(store.load_metadata(e.oid)) for e in entries if e.kind is EntryKind.COMMIT}
    outside = {parent for commit in commits.values() for parent in commit.parents} - commits.keys()
    known = dict(database.commits(outside))
    for oid in TopologicalSorter({oid: commit.parents for oid, commit in commits.items()}).static_order():
        if oid in commits:
            size = Manifest.decode(store.load_metadata(commits[oid].manifest)).size
            known[oid] = commit_record(commits[oid], size, known)
    return [known[oid] for oid in commits]


def commit_record(commit: Commit, logical_bytes: int, known: Mapping[ObjectId, CommitRecord]) -> CommitRecord:
    """Return what the index records of a commit.

    Parameters
    ----------
    commit : Commit
        The commit.
    logical_bytes : int
        Sizes of its files, added up.
    known : mapping
        Its parents, as far as they exist here.
    """
    below = [known[parent].position for parent in commit.parents if parent in known]
    return CommitRecord(
        commit.id,
        commit.manifest,
        commit.parents,
        max([commit.time, *(position + 1 for position in below)]),
        commit.time,
        commit.author,
        commit.message,
        commit.metadata,
        logical_bytes,
    )
