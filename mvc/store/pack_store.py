"""All packs of a repository: find and read objects in them (spec-v1, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mvc.errors import FormatError, IntegrityError, InvalidInputError, MalformedError, MvcError, NotFoundError
from mvc.store.fs import FileSystem
from mvc.store.handles import HandleCache
from mvc.store.layout import ENTRY_HEADER, Location, PackEntry
from mvc.store.pack_index import PackIndex, encode_index
from mvc.store.pack_lookup import PackLookup
from mvc.store.pack_scan import Damage, parse_entry, salvage_pack, verify_pack
from mvc.store.packs import index_path, pack_path
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId, object_id

__all__ = ["PackStore"]

_MAX_INDEX_BYTES: Final = 1 << 32
"""Bytes of an index that is read into memory: 76 million entries."""
_READ_WHOLE: Final = 64 << 10
"""Bytes of an entry that is read at once when it is opened: of a larger one often only the blob's header is wanted."""


class PackStore:
    """The files below ``.mvc/packs``.

    Indexes are loaded when first needed. A missing or damaged one is replaced, in memory, by a scan of its pack, which
    leaves out what is damaged: see `damages`. Packs of other processes are noticed when an object is not found.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "packs"
        self._fs = fs
        self._temporaries = Temporaries(root, fs)
        self._files = HandleCache(fs)
        self._indexes: dict[ObjectId, PackIndex] = {}
        self._lookup = PackLookup()
        self._damages: dict[ObjectId, tuple[Damage, ...]] = {}

    def ids(self) -> list[ObjectId]:
        """Return the ids of all packs, sorted; other files are ignored."""
        found = []
        for name in self._fs.names(self.directory):
            if name.endswith(".pack"):
                try:
                    found.append(object_id(name.removesuffix(".pack")))
                except InvalidInputError:
                    continue
        return sorted(found)

    def find(self, oid: ObjectId) -> Location | None:
        """Return where `oid` is, or None if no pack holds it."""
        return self._search(oid) or (self._search(oid) if self.refresh() else None)

    def copies(self, oid: ObjectId) -> list[Location]:
        """Return every place where a known pack holds `oid`; call `refresh` before to know them all."""
        found = ((pack, index.find(oid)) for pack, index in sorted(self._indexes.items()))
        return [Location(pack, entry.offset, entry.length) for pack, entry in found if entry is not None]

    def read(self, oid: ObjectId, location: Location) -> memoryview:
        """Return the body of the entry of `oid` at `location`.

        Raises
        ------
        NotFoundError
            If the pack is gone: look the object up again.
        MalformedError, IntegrityError
            If no entry of `oid` of that length is there.
        """
        assert location.pack is not None
        path = pack_path(self.directory, location.pack)
        start = location.offset - ENTRY_HEADER
        entry = memoryview(self._files.pread(path, ENTRY_HEADER + location.length, start))
        _check_entry(entry[:ENTRY_HEADER], oid, location)
        return entry[ENTRY_HEADER:]

    def open(self, oid: ObjectId, location: Location) -> Callable[[int, int], memoryview]:
        """Return access to the body of the entry of `oid` at `location`, by offset and length; errors as of `read`.

        Of a large one no more is read than is asked for. The pack stays open, and readable also after it was removed,
        until the last use of the result.
        """
        if location.length <= _READ_WHOLE:
            body = self.read(oid, location)
            return lambda offset, length: body[offset : offset + length]
        assert location.pack is not None
        file = self._files.open(pack_path(self.directory, location.pack))
        if location.offset + location.length > file.size:
            missing = location.offset + location.length - file.size
            raise MalformedError(f"{_where(location.pack)}: {missing:,} bytes of {oid[:12]} are missing")
        _check_entry(memoryview(file.pread(ENTRY_HEADER, location.offset - ENTRY_HEADER)), oid, location)

        def read(offset: int, length: int) -> memoryview:
            """Return bytes of the body."""
            if not 0 <= offset <= offset + length <= location.length:
                raise MalformedError(f"{oid[:12]} has {location.length:,} bytes, not {length:,} at {offset:,}")
            return memoryview(file.pread(length, location.offset + offset))

        return read

    def entries(self, pack: ObjectId) -> list[PackEntry]:
        """Return what a pack holds, sorted by id; NotFoundError if there is no such pack."""
        return list(self._index(pack))

    def damages(self, pack: ObjectId) -> tuple[Damage, ...]:
        """Return what a scan for want of an index had to leave out; `verify` checks every pack, and all of it."""
        self._index(pack)
        return self._damages.get(pack, ())

    def verify(self, pack: ObjectId) -> list[PackEntry]:
        """Check every byte of a pack, and its index if there is one; return the entries. Errors as of `verify_pack`."""
        entries = verify_pack(self._map(pack), pack, _where(pack))
        index = self._read_index(pack)
        if index is not None and list(index) != sorted(entries):
            raise IntegrityError(
                f"index of pack {pack[:12]}: does not list what the pack holds", hint="run mvc reindex"
            )
        return entries

    def rebuild_index(self, pack: ObjectId) -> None:
        """Write the index of a pack anew, from a scan of the pack, unless it is what the scan finds."""
        index = self._scan(pack)
        found, path = encode_index(pack, index), index_path(self.directory, pack)
        with suppress(MvcError):  # one that cannot be read is replaced
            if self._fs.read_file(path, len(found)) == found:
                return
        self._temporaries.durable_write(path, found)
        self._learn(index)

    def delete(self, pack: ObjectId) -> None:
        """Remove a pack; NotFoundError if there is none. The index goes first: a pack without one is still whole."""
        self.delete_index(pack)
        self._fs.unlink(pack_path(self.directory, pack))
        self._forget(pack)

    def delete_index(self, pack: ObjectId) -> None:
        """Remove the index of a pack, if there is one."""
        with suppress(NotFoundError):
            self._fs.unlink(index_path(self.directory, pack))

    def refresh(self) -> bool:
        """Notice packs that came or went; return whether any came."""
        present = set(self.ids())
        for pack in self._indexes.keys() - present:
            self._forget(pack)
        new = present - self._indexes.keys()
        for pack in new:
            with suppress(NotFoundError):  # removed since it was listed
                self._index(pack)
        return bool(new)

    def _search(self, oid: ObjectId) -> Location | None:
        for index in self._lookup.candidates(oid):
            entry = index.find(oid) if self._indexes.get(index.pack) is index else None
            if entry is not None:
                return Location(index.pack, entry.offset, entry.length)
        return None

    def _index(self, pack: ObjectId) -> PackIndex:
        index = self._indexes.get(pack)
        if index is None:
            try:
                index = self._read_index(pack)
            except (IntegrityError, FormatError):
                index = None  # derived data: the pack knows better
            index = self._scan(pack) if index is None else index
            self._learn(index)
        return index

    def _learn(self, index: PackIndex) -> None:
        self._lookup.add(index)  # first: an index in use that is not found there would hide what it holds
        self._indexes[index.pack] = index

    def _read_index(self, pack: ObjectId) -> PackIndex | None:
        try:
            return PackIndex(self._fs.read_file(index_path(self.directory, pack), _MAX_INDEX_BYTES), pack)
        except NotFoundError:
            return None

    def _scan(self, pack: ObjectId) -> PackIndex:
        salvage = salvage_pack(self._map(pack), _where(pack))
        self._damages[pack] = salvage.damages
        unique = {entry.oid: entry for entry in salvage.entries}
        return PackIndex(encode_index(pack, unique.values()), pack)

    def _map(self, pack: ObjectId) -> memoryview:
        return self._fs.map_file(pack_path(self.directory, pack))

    def _forget(self, pack: ObjectId) -> None:
        self._indexes.pop(pack, None)
        self._damages.pop(pack, None)
        self._files.drop(pack_path(self.directory, pack))


def _check_entry(header: memoryview, oid: ObjectId, location: Location) -> None:
    """Raise unless `header` is of an entry of `oid` at `location`."""
    assert location.pack is not None
    start = location.offset - ENTRY_HEADER
    found = parse_entry(header, start, _where(location.pack))
    if found.oid != oid or found.length != location.length:
        raise IntegrityError(
            f"{_where(location.pack)}, entry at byte {start}: is {found.oid[:12]} of {found.length:,} bytes, "
            f"not {oid[:12]} of {location.length:,}",
            hint="the index is out of date: run mvc reindex",
        )


def _where(pack: ObjectId) -> str:
    return f"pack {pack[:12]}"
