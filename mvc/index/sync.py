"""Bring the index up to date with the store, from nothing if need be: the index never knows what the store does not."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import Final

from mvc.errors import FormatError, IntegrityError, NotFoundError
from mvc.index.database import Database, Update
from mvc.index.records import UNREACHABLE, BlobRecord, CommitRecord
from mvc.objects.blob import Envelope, depth_above
from mvc.objects.commit import Commit
from mvc.objects.ids import COMMIT, MANIFEST, digest
from mvc.objects.manifest import ManifestDecoder
from mvc.store.layout import EntryKind, Location, PackEntry, StoredObject
from mvc.store.metadata import unwrap_metadata
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

_LOGGER: Final = logging.getLogger(__name__)

__all__ = ["Additions", "chained", "extend", "placed", "read_blobs", "read_metadata", "synchronise"]


@dataclass(frozen=True, slots=True)
class Additions:
    """What a process has stored since it last looked, as it knows without reading it.

    Parameters
    ----------
    blobs : sequence of BlobRecord
        Blobs; depths and chains are worked out.
    objects : sequence of (ObjectId, str, Location)
        Metadata objects, with their kinds.
    commits : sequence of CommitRecord
        Those of `objects` that are commits; positions are worked out.
    """

    blobs: Sequence[BlobRecord] = ()
    objects: Sequence[tuple[ObjectId, str, Location]] = ()
    commits: Sequence[CommitRecord] = ()

    @property
    def packs(self) -> list[ObjectId]:
        """The packs that hold them."""
        places = [*(blob.location for blob in self.blobs), *(place for _, _, place in self.objects)]
        return sorted({place.pack for place in places if place.pack})


def extend(database: Database, store: ObjectStore, before: ObjectId, operation: ObjectId, added: Additions) -> bool:
    """Make `database` describe an operation that a process has appended to another one, having stored `added` for it.

    Takes no longer where more is stored: nothing is listed or read. What others have stored, but not recorded in an
    operation, stays unknown until a `synchronise` looks at the store.

    Parameters
    ----------
    database : Database
        Changed in one transaction.
    store : ObjectStore
        Only asked for the sizes of new loose blobs, and whether new packs are there: a repack may have taken one
        apart.
    before, operation : ObjectId
        The operation, and its parent.
    added : Additions
        What was stored.

    Returns
    -------
    bool
        False if nothing was done: the index describes another operation than `before`, or something may not be there
        as it was stored. Then `synchronise` is to be called.
    """
    loose = ((blob.id, blob.location.length) for blob in added.blobs if blob.location.is_loose)
    with database.updating():  # looked at below this: who removes something has the index follow afterwards
        if not database.is_complete_at(before) or any(store.loose.size(oid) != length for oid, length in loose):
            return False
        if any(store.fs.size(store.path(pack, pack)) is None for pack in added.packs):
            return False
        blobs, commits = _blobs(database, added.blobs, ()), _in_history(database, added.commits, ())
        database.apply(Update(operation, added.packs, (), blobs, (), added.objects, commits))
    return True


def synchronise(
    database: Database,
    store: ObjectStore,
    operation: ObjectId,
    *,
    force: bool = False,
    again: Collection[ObjectId] = (),
) -> bool:
    """Make `database` describe the packs and loose blobs that `store` holds now.

    Parameters
    ----------
    database : Database
        Changed in one transaction.
    store : ObjectStore
        Read only: pack indexes, blob headers, and the metadata of what is new.
    operation : ObjectId
        The newest operation, read before this call. The index is said to describe it.
    force : bool
        Look at the store although the index describes the operation: it can change without one.
    again : collection of ObjectId
        Loose blobs that have been replaced: read again, also if they are as long as before.

    Returns
    -------
    bool
        True if anything had to be done.

    Raises
    ------
    StorageError
        If the store cannot be read. What is corrupt is left out, with a warning: to the index it is missing, and
        ``mvc fsck`` names it.
    """
    if database.operation() == operation and not force:
        return False
    with database.updating():
        if database.operation() == operation and not force:
            return False  # another process has done it meanwhile
        _follow(database, store, operation, again)
    return True


def _follow(database: Database, store: ObjectStore, operation: ObjectId, again: Collection[ObjectId]) -> None:
    """Compare the index with the store, and change what differs."""
    known, there = database.packs(), set(store.pack_ids())
    new_packs, gone = sorted(there - known), sorted(known - there)
    known_loose = database.loose()
    loose = {oid: size for oid in store.loose.ids() if (size := store.loose.size(oid))}
    lost = sorted(oid for oid, length in known_loose.items() if loose.get(oid) != length or oid in again)
    found = [_stored(pack, entry) for pack in new_packs for entry in _entries(store, pack)]
    new_loose = sorted(oid for oid, size in loose.items() if known_loose.get(oid) != size or oid in again)
    found += [StoredObject(oid, None, Location(None, 0, loose[oid])) for oid in new_loose]
    lost_commits = _lost_commits(database, found, gone) if gone else []
    commits, complete = _commits(database, store, found, lost_commits)
    database.apply(
        Update(
            operation,
            new_packs,
            gone,
            _blobs(database, [record for entry in found if (record := _read_blob(store, entry))], {*gone, *lost}),
            lost,
            [(e.oid, e.kind.name.lower(), e.location) for e in found if e.kind is not None and e.kind.is_metadata],
            commits,
            lost_commits,
            complete,
        )
    )


def read_blobs(store: ObjectStore, found: Iterable[StoredObject]) -> list[BlobRecord]:
    """Return the encodings among `found`, with their chains, from what the blobs say of themselves.

    Those that are corrupt are left out, with a warning.
    """
    return chained(record for entry in found if (record := _read_blob(store, entry)))


def read_metadata(store: ObjectStore, oid: ObjectId, domain: str, location: Location | None = None) -> bytes:
    """Return the canonical bytes of a metadata object, verified against its id.

    If it is not, or not undamaged, at the `location` where it is said to be, it is looked for everywhere.

    Raises
    ------
    NotFoundError
        If it is not stored.
    IntegrityError
        If it is corrupt, or is another object than `oid`.
    """
    if location is not None:
        with suppress(NotFoundError, IntegrityError):
            data = unwrap_metadata(store.read(oid, location), f"object {oid[:12]}")
            if digest(domain, data) == oid:
                return data
    data = store.load_metadata(oid)
    if (computed := digest(domain, data)) != oid:
        raise IntegrityError(f"object {oid} holds {computed}", hint="mvc fsck")
    return data


def _entries(store: ObjectStore, pack: ObjectId) -> list[PackEntry]:
    """Return what a pack holds; nothing if it was removed since it was listed: what moved is in another one."""
    try:
        return store.packs.entries(pack)
    except NotFoundError:
        return []


def _stored(pack: ObjectId, entry: PackEntry) -> StoredObject:
    return StoredObject(entry.oid, entry.kind, Location(pack, entry.offset, entry.length))


def _read_blob(store: ObjectStore, entry: StoredObject) -> BlobRecord | None:
    """Return what a blob says of itself; None if it is corrupt: to the index it is then missing, and fsck names it."""
    if entry.kind is not None and entry.kind.is_metadata:
        return None
    try:
        return BlobRecord.of(_envelope(store, entry), entry.location)
    except NotFoundError:
        return None  # removed, or moved, since it was listed
    except (IntegrityError, FormatError) as error:
        _LOGGER.warning("blob %s is left out of the index: %s", entry.oid, error)
        return None


def _envelope(store: ObjectStore, entry: StoredObject) -> Envelope:
    stored = store.open(entry.oid, entry.location)
    found = Envelope.fetch(stored.length, stored.read)
    if found.id != entry.oid:
        raise IntegrityError(f"it holds {found.id}")
    if stored.length != found.stored_bytes:
        raise IntegrityError(f"it has {stored.length} bytes, its header promises {found.stored_bytes}")
    return found


def _blobs(database: Database, new: Sequence[BlobRecord], removed: Collection[ObjectId]) -> Sequence[BlobRecord]:
    """Return `new` with their chains, and what is known already where its chains may have become others.

    That is rare: after a repack, or if two writers stored the same content at the same time.
    """
    if removed or database.touched_by({record.id for record in new}):
        kept = (blob for blob in database.all_blobs() if (blob.location.pack or blob.id) not in removed)
        return chained([*kept, *new])
    return chained(new, database.blobs({item.id for record in new for item in record.references}))


@dataclass
class _Waiting:
    """An encoding, and those of its side tensors that are not known yet."""

    record: BlobRecord
    missing: set[ObjectId]


def chained(
    records: Iterable[BlobRecord], known: Mapping[ObjectId, BlobRecord] = MappingProxyType({})
) -> list[BlobRecord]:
    """Return `records` with the depths and bytes of their cheapest chains, side tensors before those that need them.

    Knuth's generalization of Dijkstra's algorithm: an encoding is ready when all its side tensors are known, and costs
    its own bytes and all of theirs. Encodings that never become ready are marked as such: what they need may yet
    arrive.
    """
    best = dict(known)
    unready = [_Waiting(record, {item.id for item in record.references} - known.keys()) for record in records]
    waiting: dict[ObjectId, list[_Waiting]] = {}
    result: list[BlobRecord] = []
    heap: list[tuple[tuple[int, str], int, BlobRecord]] = []

    def queue(item: _Waiting) -> None:
        """Put an encoding where it belongs: into the heap once all its side tensors are known."""
        if not item.missing:
            ready = _on_sides(item.record, best)
            heapq.heappush(heap, (ready.cost, len(result) + len(heap), ready))

    for item in unready:
        queue(item)
        for oid in item.missing:
            waiting.setdefault(oid, []).append(item)
    while heap:
        _, _, record = heapq.heappop(heap)
        result.append(record)
        if record.id not in best or record.cost < best[record.id].cost:
            best[record.id] = record
        for item in waiting.pop(record.id, ()):
            item.missing.remove(record.id)
            queue(item)
    return result + [_unreachable(item) for item in unready if item.missing]


def _unreachable(item: _Waiting) -> BlobRecord:
    _LOGGER.warning("%s cannot be decoded: %s is missing, or needs it", item.record.id, min(item.missing))
    depth = depth_above(item.record.references)  # as it says itself, whatever it was once
    return replace(item.record, depth=depth, chain_bytes=UNREACHABLE)


def _on_sides(record: BlobRecord, known: Mapping[ObjectId, BlobRecord]) -> BlobRecord:
    """Return an encoding with its depth and chain."""
    below = [known[item.id] for item in record.references]
    chain_bytes = record.location.length + sum(side.chain_bytes for side in below)
    depth = 1 + max(side.depth for side in below) if below else 0
    return replace(record, depth=depth, chain_bytes=min(chain_bytes, UNREACHABLE - 1))


def _lost_commits(database: Database, found: Iterable[StoredObject], gone: Collection[ObjectId]) -> Sequence[ObjectId]:
    """Return the commits that, or whose manifests, are stored no more when the packs `gone` are."""
    stored = database.objects_without(gone) | {entry.oid for entry in found}
    return sorted(known.id for known in database.all_commits() if not {known.id, known.manifest} <= stored)


def _commits(
    database: Database, store: ObjectStore, found: Iterable[StoredObject], lost: Collection[ObjectId]
) -> tuple[Sequence[CommitRecord], bool]:
    """Return the commits among `found`, others whose positions change, and whether all that are stored are known."""
    places = {entry.oid: entry.location for entry in found if entry.kind is not None and entry.kind.is_metadata}
    unread = set(database.unread_commits())  # one of the manifests that were found may be what they lack
    unread |= {entry.oid for entry in found if entry.kind is EntryKind.COMMIT}
    read = [commit for oid in sorted(unread) if (commit := _read_commit(store, oid, places))]
    read.sort(key=lambda commit: commit.time)  # a manifest is most like that of the commit before
    manifests = ManifestDecoder()
    new = [record for commit in read if (record := _commit_record(store, commit, places, manifests))]
    return _in_history(database, new, lost), len(new) == len(unread)


def _in_history(database: Database, new: Sequence[CommitRecord], lost: Collection[ObjectId]) -> Sequence[CommitRecord]:
    """Return `new` commits at their positions, and those known already whose positions may have become others.

    That is rare: when commits go, or come after their children.
    """
    if lost or database.are_parents(record.id for record in new):
        kept = {record.id: record for record in database.all_commits() if record.id not in lost}
        return placed({**kept, **{record.id: record for record in new}}.values())
    return placed(new, database.commits({parent for record in new for parent in record.parents}))


def placed(
    records: Iterable[CommitRecord], known: Mapping[ObjectId, CommitRecord] = MappingProxyType({})
) -> list[CommitRecord]:
    """Return `records`, parents first, with their positions above those of their parents, as far as these exist."""
    unplaced, there = {record.id: record for record in records}, dict(known)
    order = TopologicalSorter({oid: record.parents for oid, record in unplaced.items()}).static_order()
    ordered = [unplaced[oid] for oid in order if oid in unplaced]
    for record in ordered:
        below = [there[parent].position + 1 for parent in record.parents if parent in there]
        there[record.id] = replace(record, position=max([record.time, *below]))
    return [there[record.id] for record in ordered]


def _read_commit(store: ObjectStore, oid: ObjectId, places: Mapping[ObjectId, Location]) -> Commit | None:
    """Return a commit; None if it is corrupt: `mvc fsck` names it."""
    try:
        return Commit.decode(read_metadata(store, oid, COMMIT, places.get(oid)))
    except (IntegrityError, NotFoundError, FormatError) as error:
        _LOGGER.warning("commit %s is left out of the index: %s", oid, error)
        return None


def _commit_record(
    store: ObjectStore, commit: Commit, places: Mapping[ObjectId, Location], manifests: ManifestDecoder
) -> CommitRecord | None:
    """Return a commit at the position of its time; None if its manifest is corrupt: `mvc fsck` names it."""
    try:
        manifest = manifests.decode(read_metadata(store, commit.manifest, MANIFEST, places.get(commit.manifest)))
    except (IntegrityError, NotFoundError, FormatError) as error:
        _LOGGER.warning("commit %s is left out of the index: %s", commit.id, error)
        return None
    return CommitRecord.of(commit, manifest.size)
