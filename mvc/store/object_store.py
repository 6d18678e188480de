"""Everything that a ``.mvc`` directory stores, behind one object: where bytes live, never what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mvc.errors import IntegrityError, NotFoundError
from mvc.store.batch import PACK_LIMIT, Rehearsal, WriteBatch
from mvc.store.eviction import Evictions
from mvc.store.fs import FileSystem
from mvc.store.layout import Location, StoredObject
from mvc.store.leases import Leases
from mvc.store.local_fs import LocalFileSystem
from mvc.store.loose import LooseBlobs
from mvc.store.metadata import unwrap_metadata
from mvc.store.op_head import OpHead
from mvc.store.operations import OperationStore
from mvc.store.pack_store import PackStore
from mvc.store.packs import index_path, pack_path
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId

__all__ = ["ObjectStore", "StoredBytes", "StoredRange"]

_DIRECTORIES: Final = ("objects", "packs", "ops", "op_head", "leases", "tmp")
_TRIES: Final = 3
"""Times that an object is looked up: a repack between finding and reading may move it once, hardly ever twice."""


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """Bytes of the files that hold objects, by place. `indexes` are derived from the packs."""

    loose: int
    packs: int
    indexes: int
    operations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.loose + self.packs + self.indexes + self.operations


@dataclass(frozen=True, slots=True)
class StoredRange:
    """The stored bytes of one object.

    Parameters
    ----------
    length : int
        How many there are.
    read : callable
        Returns those at an offset, of a length. MalformedError if there are not so many; StorageError if they cannot
        be read.
    """

    length: int
    read: Callable[[int, int], memoryview]


class ObjectStore:
    """Loose blobs, packs, operations and the head of one repository.

    Safe for many threads and processes at once without locks: objects are written once under names that say what they
    are, and the head is moved by creating a file. Ids are trusted here; whoever decodes an object checks its content.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem, optional
        Where to read and write; the local file system if not given.
    """

    def __init__(self, root: Path, fs: FileSystem | None = None) -> None:
        self.root = root
        self.fs = fs or LocalFileSystem()
        self.loose = LooseBlobs(root, self.fs)
        self.packs = PackStore(root, self.fs)
        self.operations = OperationStore(root, self.fs)
        self.head = OpHead(root, self.fs)
        self.temporaries = Temporaries(root, self.fs)
        self.leases = Leases(root, self.fs)
        self.evictions = Evictions(root, self.fs)

    def initialize(self) -> None:
        """Create the directories below `root`, and `root` itself in an existing directory, durably. May be repeated."""
        self.fs.mkdir(self.root)
        for name in _DIRECTORIES:
            self.fs.mkdir(self.root / name)
        self.fs.fsync_dir(self.root)
        self.fs.fsync_dir(self.root.parent)

    def begin(self, pack_limit: int = PACK_LIMIT) -> WriteBatch:
        """Start adding objects; use it in a ``with`` block and `WriteBatch.commit` it."""
        return WriteBatch(self.loose, self.packs.directory, self.temporaries, self.fs, pack_limit)

    def rehearse(self) -> Rehearsal:
        """Start a batch that is weighed and thrown away."""
        return Rehearsal(self.loose, self.packs.directory, self.temporaries, self.fs)

    def find(self, oid: ObjectId) -> Location | None:
        """Return where the object is, without the help of an index database; None if it is not stored.

        What was about to be removed, and is found nowhere else, gets its name back.
        """
        return self._search(oid) or (self._search(oid) if self.rescue([oid]) else None)

    def _search(self, oid: ObjectId) -> Location | None:
        size = self.loose.size(oid)
        return self.packs.find(oid) if size is None else Location(None, 0, size)

    def rescue_all(self) -> None:
        """Give every condemned file its name back: for who misses something, and does not know what."""
        for path in self.condemned():
            self.evictions.rescue(path)

    def condemned(self) -> Iterator[Path]:
        """Yield every condemned file, by the name that it had."""
        fans = [self.loose.directory / name for name in self.fs.names(self.loose.directory)]
        return self.evictions.condemned(self.packs.directory, *fans)

    def rescue(self, ids: Iterable[ObjectId]) -> bool:
        """Give condemned files that may hold objects their names back; False if there are none."""
        packs = self.evictions.condemned(self.packs.directory)
        paths = [*map(self.loose.path, ids), *packs]
        return sum(self.evictions.rescue(path) for path in paths) > 0

    def copies(self, oid: ObjectId) -> list[Location]:
        """Return every place where the object is stored, the loose one first; as `find`, also of what was condemned."""
        return self._copies(oid) or (self._copies(oid) if self.rescue([oid]) else [])

    def _copies(self, oid: ObjectId) -> list[Location]:
        size = self.loose.size(oid)
        self.packs.refresh()
        return ([] if size is None else [Location(None, 0, size)]) + self.packs.copies(oid)

    def open(self, oid: ObjectId, location: Location) -> StoredRange:
        """Return access to the stored bytes of `oid`: a blob, or the body of a metadata object.

        The file stays open, and readable also after it was removed or replaced, until the last use of the result.

        Raises
        ------
        NotFoundError
            If it is not there any more: find it again, it may have been moved.
        IntegrityError
            If something else is there.
        """
        if not location.is_loose:
            return StoredRange(location.length, self.packs.open(oid, location))
        blob = self.loose.open(oid)
        if location.offset or not 0 < location.length == blob.size:
            raise IntegrityError(
                f"loose blob {oid[:12]} has {blob.size:,} bytes, not {location.length:,}",
                hint="the index is out of date, or the blob is damaged: run mvc fsck",
            )
        return StoredRange(blob.size, lambda offset, length: memoryview(blob.pread(length, offset)))

    def read(self, oid: ObjectId, location: Location) -> memoryview:
        """Return all stored bytes of `oid`, which should be few: see `open`, also for errors."""
        if not location.is_loose:
            return self.packs.read(oid, location)
        found = self.open(oid, location)
        return found.read(0, found.length)

    def is_there(self, oid: ObjectId, location: Location) -> bool:
        """Return whether there is still a file that holds, or held, the object."""
        return self.fs.size(self.path(oid, location.pack)) is not None

    def holds(self, oid: ObjectId, location: Location) -> bool:
        """Return whether the file that holds the object is there, and long enough. Reads nothing of it."""
        size = self.fs.size(self.path(oid, location.pack))
        if location.pack is None:
            return size == location.length
        return size is not None and size >= location.offset + location.length

    def load(self, oid: ObjectId) -> memoryview:
        """Find and read an object, also while others move it; NotFoundError if it is not stored."""
        for _ in range(_TRIES):
            location = self.find(oid)
            if location is None:
                break
            try:
                return self.read(oid, location)
            except NotFoundError:
                self.packs.refresh()
        raise NotFoundError(f"object {oid} is not stored here", hint="run mvc fsck, or fetch it from a remote")

    def load_metadata(self, oid: ObjectId) -> bytes:
        """Return the canonical bytes of a manifest, commit or tag; their id is for `mvc.objects` to check.

        If they do not have their checksum, another copy is read; IntegrityError if there is none that has.
        """
        where = f"object {oid[:12]}"
        try:
            return unwrap_metadata(self.load(oid), where)
        except IntegrityError:
            for location in self.copies(oid):
                with suppress(NotFoundError, IntegrityError):
                    return unwrap_metadata(self.read(oid, location), where)
            raise

    def locations(self) -> Iterator[StoredObject]:
        """Yield every stored object, loose ones first; an object that is stored twice is yielded twice."""
        for oid in self.loose.ids():
            size = self.loose.size(oid)
            if size is not None:
                yield StoredObject(oid, None, Location(None, 0, size))
        for pack in self.pack_ids():
            with suppress(
                NotFoundError
            ):  # removed since it was listed; its objects are in a newer pack, or unreferenced
                for entry in self.packs.entries(pack):
                    yield StoredObject(entry.oid, entry.kind, Location(pack, entry.offset, entry.length))

    def pack_ids(self) -> list[ObjectId]:
        """Return the ids of all packs, sorted."""
        return self.packs.ids()

    def path(self, oid: ObjectId, pack: ObjectId | None) -> Path:
        """Return the file that holds an object: that of a pack, or its own."""
        return self.loose.path(oid) if pack is None else pack_path(self.packs.directory, pack)

    def stored_bytes(self) -> StoredBytes:
        """Return how many bytes the objects take."""
        packs = self.pack_ids()
        return StoredBytes(
            loose=sum(self.loose.size(oid) or 0 for oid in self.loose.ids()),
            packs=sum(self.fs.size(pack_path(self.packs.directory, pack)) or 0 for pack in packs),
            indexes=sum(self.fs.size(index_path(self.packs.directory, pack)) or 0 for pack in packs),
            operations=sum(self.operations.size(oid) or 0 for oid in self.operations.ids()),
        )
