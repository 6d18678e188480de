"""Bring the index up to date with the store, from nothing if need be: the index never knows what the store does not."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
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

__all__ = ["synchronise"]


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
    lost = sorted(known_loose - loose)
    database.apply(
        Update(
            operation,
            new_packs,
            gone,
            _blobs(database, [record for entry in found if (record := _read_blob(store, entry))], {*gone, *lost}),
            lost,
            [(e.oid, e.kind.name.lower(), e.location) for e in found if e.kind is not None and e.kind.is_metadata],
            _read_commits(database, store, found),
        )
    )
    return True


def _stored(pack: ObjectId, entry: PackEntry) -> StoredObject:
    return StoredObject(entry.oid, entry.kind, Location(pack, entry.offset, entry.length))


def _read_blob(store: ObjectStore, entry: StoredObject) -> BlobRecord | None:
    """Return what a blob says of itself; None if it is corrupt: to the index it is then missing, and fsck names it."""
    if entry.kind is not None and entry.kind.is_metadata:
        return None
    try:
        found = _envelope(store, entry)
    except IntegrityError as error:
        _LOGGER.warning("blob %s is left out of the index: %s", entry.oid, error)
        return None
    base = found.references[0].id if found.references else None
    raw_bytes, length = found.spec.nbytes, entry.location.length
    return BlobRecord(found.id, found.kind, entry.location, raw_bytes, found.codec, base, found.depth, length)


def _envelope(store: ObjectStore, entry: StoredObject) -> Envelope:
    found = Envelope.decode(store.read(entry.oid, entry.location))
    if found.id != entry.oid:
        raise IntegrityError(f"it holds {found.id}")
    return found


def _blobs(database: Database, new: Sequence[BlobRecord], removed: Collection[ObjectId]) -> Sequence[BlobRecord]:
    """Return `new` with their chains, and what is known already where its chains may have become others.

    That is rare: after a repack, or if two writers stored the same content at the same time.
    """
    if removed or database.touched_by({record.id for record in new}):
        kept = (blob for blob in database.all_blobs() if (blob.location.pack or blob.id) not in removed)
        return _chained([*kept, *new], {})
    return _chained(new, database.blobs({record.base for record in new if record.base}))


def _chained(records: Iterable[BlobRecord], known: Mapping[ObjectId, BlobRecord]) -> list[BlobRecord]:
    """Return `records` with the depths and bytes of their chains, bases before the deltas on them.

    Raises
    ------
    IntegrityError
        If deltas form a cycle.
    """
    by_id: dict[ObjectId, list[BlobRecord]] = {}
    for record in records:
        by_id.setdefault(record.id, []).append(record)
    best, result = dict(known), []
    for oid in _bases_first({oid: {record.base for record in found} for oid, found in by_id.items()}):
        found = [_on_base(record, best) for record in by_id[oid]]
        best[oid] = min(found, key=lambda record: record.cost)
        result += found
    return result


def _on_base(record: BlobRecord, known: Mapping[ObjectId, BlobRecord]) -> BlobRecord:
    """Return an encoding with its depth and chain; a base that is missing counts as one of no bytes."""
    below = known.get(record.base) if record.base else None
    depth, chain_bytes = (below.depth, below.chain_bytes) if below else (0, 0)
    return replace(record, depth=depth + (record.base is not None), chain_bytes=record.location.length + chain_bytes)


def _bases_first(edges: Mapping[ObjectId, set[ObjectId | None]]) -> Sequence[ObjectId]:
    graph = {oid: {base for base in bases if base in edges} for oid, bases in edges.items()}
    try:
        return [oid for oid in TopologicalSorter(graph).static_order() if oid is not None]
    except CycleError as error:
        raise IntegrityError(f"the deltas of {error.args[1][0]} form a cycle", hint="mvc fsck") from error


def _read_commits(database: Database, store: ObjectStore, found: Iterable[StoredObject]) -> list[CommitRecord]:
    entries = list(found)
    commits = {e.oid: Commit.decode(store.load_metadata(e.oid)) for e in entries if e.kind is EntryKind.COMMIT}
    outside = {parent for commit in commits.values() for parent in commit.parents} - commits.keys()
    known = dict(database.commits(outside))
    for oid in TopologicalSorter({oid: commit.parents for oid, commit in commits.items()}).static_order():
        if oid in commits:
            size = Manifest.decode(store.load_metadata(commits[oid].manifest)).size
            known[oid] = _commit_record(commits[oid], size, known)
    return [known[oid] for oid in commits]


def _commit_record(commit: Commit, logical_bytes: int, known: Mapping[ObjectId, CommitRecord]) -> CommitRecord:
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
