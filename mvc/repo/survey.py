"""What the store holds, read from the store itself: whoever removes things must not believe an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mvc.index import BlobRecord, read_blobs
from mvc.repo.arborescence import Way
from mvc.store.layout import StoredObject
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

__all__ = ["Place", "Preferred", "StoredFile", "Survey", "survey", "way_of"]

Place = tuple[ObjectId, ObjectId | None]
"""An object in one of the files that hold it: its id, and the pack, or None for its own file."""

Preferred = Mapping[ObjectId, ObjectId | None]
"""By content: the pack that holds the encoding to be taken, or None for a loose blob."""


def way_of(record: BlobRecord) -> Way:
    """Return how a content is stored."""
    return Way(tuple(item.id for item in record.references), record.location.length)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A loose blob or a pack as a file.

    Parameters
    ----------
    path : Path
        Where it is.
    size : int
        Bytes.
    modified : float
        When it was written or last relied on, seconds since 1970-01-01T00:00:00Z.
    """

    path: Path
    size: int
    modified: float


@dataclass(frozen=True)
class Survey:
    """What was found.

    Parameters
    ----------
    files : mapping of ObjectId to StoredFile
        Packs by their ids, and loose blobs by those of their contents; looked at before they were read, so that what
        changes later differs from this.
    objects : mapping of Place to StoredObject
        Everything that they hold.
    blobs : mapping of ObjectId to tuple of BlobRecord
        By content: its encodings that can be decoded, quickest to rebuild first.
    """

    files: Mapping[ObjectId, StoredFile]
    objects: Mapping[Place, StoredObject]
    blobs: Mapping[ObjectId, tuple[BlobRecord, ...]]

    def file_of(self, found: StoredObject) -> StoredFile | None:
        """Return the file that holds an object; None if it came while the others were looked at."""
        return self.files.get(found.location.pack or found.oid)

    def chain(self, contents: Iterable[ObjectId], preferred: Preferred | None = None) -> dict[ObjectId, BlobRecord]:
        """Return the encodings from which `contents` are rebuilt, with those of all that they need.

        Of several the one in the pack that `preferred` names is taken, or else the one that is quickest to rebuild.
        """
        result: dict[ObjectId, BlobRecord] = {}
        pending = [*contents]
        while pending:
            oid = pending.pop()
            if oid not in result and oid in self.blobs:
                result[oid] = self._chosen(oid, preferred or {})
                pending += [item.id for item in result[oid].references]
        return result

    def _chosen(self, oid: ObjectId, preferred: Preferred) -> BlobRecord:
        wanted = (record for record in self.blobs[oid] if oid in preferred and record.location.pack == preferred[oid])
        return next(wanted, self.blobs[oid][0])


def survey(store: ObjectStore) -> Survey:
    """Read every pack's entries and every blob's header."""
    store.packs.refresh()
    held = {oid: store.path(oid, None) for oid in store.loose.ids()} | {
        pack: store.path(pack, pack) for pack in store.pack_ids()
    }
    files = {oid: looked for oid, path in held.items() if (looked := _look(store, path))}
    objects = {  # less what came since
        (found.oid, found.location.pack): found
        for found in store.locations()
        if (found.location.pack or found.oid) in files
    }
    blobs: dict[ObjectId, list[BlobRecord]] = {}
    for record in read_blobs(store, objects.values()):
        if record.reachable:
            blobs.setdefault(record.id, []).append(record)
    return Survey(
        files,
        objects,
        {oid: tuple(sorted(records, key=lambda record: record.cost)) for oid, records in blobs.items()},
    )


def _look(store: ObjectStore, path: Path) -> StoredFile | None:
    size, modified = store.fs.size(path), store.fs.modified(path)
    return None if size is None or modified is None else StoredFile(path, size, modified)
