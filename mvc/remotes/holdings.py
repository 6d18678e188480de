"""What a remote holds: the objects of all its packs, and its loose blobs, by id."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mvc.errors import IntegrityError, MalformedError, MvcError, NotFoundError, RemoteError
from mvc.remotes.engine import Engine, KeyInfo
from mvc.remotes.keys import LOOSE, MAX_INDEX_BYTES, PACKS, index_key, pack_key
from mvc.store.fs import FileSystem
from mvc.store.layout import EntryKind
from mvc.store.pack_index import PackIndex
from mvc.store.pack_lookup import PackLookup
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId

__all__ = ["SKEW_SECONDS", "YOUNG_SECONDS", "Holdings", "IndexCache", "Place", "is_young"]

_LOOKS: Final = 5
"""Times that packs are listed whose indexes are then gone; each time, somebody has repacked them."""
YOUNG_SECONDS: Final = 12 * 3600
"""Age up to which garbage collection surely leaves a file alone: half the grace period (remotes-v1, section 3)."""
SKEW_SECONDS: Final = 3600
"""By how much the clocks of two machines are thought to differ at most."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stored copy of an object is.

    Parameters
    ----------
    key : str
        A pack or a loose blob.
    offset, length : int
        Of the body of the entry, in bytes.
    kind : EntryKind or None
        What it is; None for a loose blob.
    modified : float
        Time of last change of the key, seconds since 1970.
    """

    key: str
    offset: int
    length: int
    kind: EntryKind | None
    modified: float

    @property
    def is_young(self) -> bool:
        """Whether garbage collection leaves it alone for hours."""
        return is_young(self.modified)


def is_young(modified: float) -> bool:
    """Return whether garbage collection leaves a file of this time of last change alone for hours.

    One that seems to come from far in the future does not count: a clock is wrong, here or there.
    """
    return -SKEW_SECONDS <= time.time() - modified < YOUNG_SECONDS


class IndexCache:
    """Indexes of packs of one remote, kept as files: a pack never changes, so neither does its index.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    name : str
        The remote.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, name: str, fs: FileSystem) -> None:
        self._parents = (root / "remotes", root / "remotes" / name)
        self._fs = fs
        self._temporaries = Temporaries(root, fs)

    def get(self, pack: ObjectId) -> PackIndex | None:
        """Return an index that is kept whole; None if there is none."""
        with suppress(MvcError):
            return PackIndex(self._fs.read_file(self._path(pack), MAX_INDEX_BYTES), pack)
        return None

    def put(self, pack: ObjectId, data: bytes) -> None:
        """Keep an index; failing to costs only time."""
        with suppress(MvcError):
            for directory in self._parents:
                self._fs.mkdir(directory)
            self._temporaries.write(self._path(pack), data)

    def keep_only(self, packs: set[ObjectId]) -> None:
        """Forget the indexes of packs that the remote has no more."""
        for name in self._fs.names(self._parents[-1]):
            if name.endswith(".idx") and name.removesuffix(".idx") not in packs:
                with suppress(MvcError):
                    self._fs.unlink(self._parents[-1] / name)

    def _path(self, pack: ObjectId) -> Path:
        return self._parents[-1] / f"{pack}.idx"


class Holdings:
    """Every object of a remote that it lists.

    Parameters
    ----------
    engine : Engine
        The remote.
    cache : IndexCache or None
        Where indexes are kept.
    """

    def __init__(self, engine: Engine, cache: IndexCache | None = None) -> None:
        self._lookup = PackLookup()
        self._indexes: dict[ObjectId, tuple[PackIndex, KeyInfo]] = {}
        self._loose: dict[ObjectId, KeyInfo] = {}
        self._load_packs(engine, cache)
        for item in engine.keys(LOOSE):
            self._loose[ObjectId(item.key[-69:-5])] = item

    def _load_packs(self, engine: Engine, cache: IndexCache | None) -> None:
        """Read the indexes of all packs; again, if some were gone before they were read: others have come then."""
        for _ in range(_LOOKS):
            if self._load_listed(engine, cache):
                return
        raise RemoteError(f"{engine.url} changes faster than it can be read", transient=True)

    def _load_listed(self, engine: Engine, cache: IndexCache | None) -> bool:
        listed = list(engine.keys(PACKS))
        indexed = {item.key for item in listed if item.key.endswith(".idx")}
        packs = {
            pack: item
            for item in listed
            if item.key.endswith(".pack") and index_key(pack := _pack_of(item.key)) in indexed
        }
        if cache is not None:
            cache.keep_only(set(packs))
        with ThreadPoolExecutor(engine.capabilities.connections) as pool:
            found = [*pool.map(lambda pack: _index(engine, cache, pack), packs)]
        if None in found:
            return False
        for pack, index in zip(packs, found, strict=True):
            if index is not None:
                self._lookup.add(index)
                self._indexes[pack] = (index, packs[pack])
        return True

    def __contains__(self, oid: ObjectId) -> bool:
        return oid in self._loose or next(self._packed(oid), None) is not None

    def places(self, oid: ObjectId) -> list[Place]:
        """Return every copy of an object, loose ones first.

        Raises
        ------
        IntegrityError
            If an index says that an entry lies outside of its pack.
        """
        found = [*self._packed(oid)]
        if (loose := self._loose.get(oid)) is not None:
            found.insert(0, Place(loose.key, 0, loose.size, None, loose.modified))
        return found

    def metadata(self) -> Iterator[ObjectId]:
        """Yield the commits, tags and manifests that there are; some more than once."""
        for index, _ in self._indexes.values():
            yield from (entry.oid for entry in index if entry.kind.is_metadata)

    def neighbours(self, oid: ObjectId) -> Iterable[ObjectId]:
        """Return the metadata objects that lie in the pack of one."""
        for place in self._packed(oid):
            index, _ = self._indexes[_pack_of(place.key)]
            return [entry.oid for entry in index if entry.kind.is_metadata]
        return []

    def _packed(self, oid: ObjectId) -> Iterator[Place]:
        for index in self._lookup.candidates(oid):
            entry = index.find(oid)
            if entry is None:
                continue
            info = self._indexes[index.pack][1]
            if entry.offset + entry.length > info.size:
                raise MalformedError(f"the index of {info.key} says that {oid[:12]} lies outside of it")
            yield Place(info.key, entry.offset, entry.length, entry.kind, info.modified)


def _pack_of(key: str) -> ObjectId:
    return ObjectId(key.removeprefix("packs/").removesuffix(".pack"))


def _index(engine: Engine, cache: IndexCache | None, pack: ObjectId) -> PackIndex | None:
    """Return the index of a pack; None if both are gone since they were listed."""
    if cache is not None and (found := cache.get(pack)) is not None:
        return found
    try:
        data = engine.read_all(index_key(pack), MAX_INDEX_BYTES)
    except NotFoundError:
        return None
    index = PackIndex(data, pack)
    if sum(1 for _ in index) != len(index):
        raise IntegrityError(f"the index of {pack_key(pack)} lists an object twice")
    if cache is not None:
        cache.put(pack, data)
    return index
