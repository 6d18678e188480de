"""Pack indexes: what a pack holds, sorted by id (spec-v1, section 7). Derived: a scan of the pack gives it again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.errors import MalformedError
from mvc.store.checks import check_prelude, check_xxh3
from mvc.store.layout import (
    ENTRY_KINDS,
    FORMAT_VERSION,
    INDEX_HEADER,
    INDEX_MAGIC,
    INDEX_RECORD,
    U64,
    Buffer,
    EntryKind,
    PackEntry,
)
from mvc.types import ID_BYTES, ObjectId, object_id, raw_id

__all__ = ["PackIndex", "encode_index", "prefix_of"]

_PREFIX_BYTES: Final = 8
"""Bytes of an id by which packs are looked up: of 10 million ids two begin alike once in 400,000 repositories."""
_PREFIX: Final = Struct(f">Q{INDEX_RECORD.size - _PREFIX_BYTES}x")


def prefix_of(oid: ObjectId) -> int:
    """Return the beginning of an id as `PackIndex.prefixes` gives it."""
    return int(oid[: 2 * _PREFIX_BYTES], 16)


def encode_index(pack: ObjectId, entries: Iterable[PackEntry]) -> bytes:
    """Return the bytes of the index of `pack`."""
    ordered = sorted(entries)  # by id: the text of ids sorts like their bytes
    parts = [INDEX_HEADER.pack(INDEX_MAGIC, FORMAT_VERSION, bytes(6), raw_id(pack), len(ordered))]
    parts += [INDEX_RECORD.pack(raw_id(e.oid), e.offset, e.length, e.kind, bytes(7)) for e in ordered]
    content = b"".join(parts)
    return content + U64.pack(xxh3_64_intdigest(content))


class PackIndex:
    """Read access to one index, without decoding more of it than is asked for.

    Parameters
    ----------
    data : bytes-like
        The whole file, usually mapped.
    pack : ObjectId
        The pack that it must be of.

    Raises
    ------
    MalformedError, IntegrityError, FormatError
        If it is not a complete, undamaged index of `pack`.
    """

    def __init__(self, data: Buffer, pack: ObjectId) -> None:
        self.pack = pack
        self._where = f"index of pack {pack[:12]}"
        self._data = memoryview(data)
        self._count = self._check()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PackEntry]:
        """Yield all entries by id; MalformedError if they are not in strictly ascending order."""
        before = ""
        for position in range(self._count):
            entry = self._entry(position)
            if entry.oid <= before:
                raise MalformedError(f"{self._where}: {entry.oid[:12]} at position {position} is out of order")
            before = entry.oid
            yield entry

    def prefixes(self) -> Iterator[int]:
        """Yield the beginnings of all ids, in order."""
        return (prefix for (prefix,) in _PREFIX.iter_unpack(self._data[INDEX_HEADER.size : -U64.size]))

    def find(self, oid: ObjectId) -> PackEntry | None:
        """Return the entry of `oid`, or None."""
        raw = raw_id(oid)
        position = bisect_left(range(self._count), raw, key=self._raw_id)
        found = position < self._count and self._raw_id(position) == raw
        return self._entry(position) if found else None

    def _check(self) -> int:
        least = INDEX_HEADER.size + U64.size
        if len(self._data) < least:
            raise MalformedError(f"{self._where}: has {len(self._data)} bytes; the shortest index has {least}")
        magic, version, reserved, pack, count = INDEX_HEADER.unpack_from(self._data)
        check_prelude(magic, INDEX_MAGIC, version, reserved, self._where)
        if len(self._data) != least + count * INDEX_RECORD.size:
            raise MalformedError(f"{self._where}: has {len(self._data):,} bytes, which do not fit {count:,} entries")
        check_xxh3(self._data[: -U64.size], U64.unpack(self._data[-U64.size :])[0], self._where)
        if pack != raw_id(self.pack):
            raise MalformedError(f"{self._where}: is the index of pack {pack.hex()[:12]}")
        return int(count)

    def _raw_id(self, position: int) -> bytes:
        start = INDEX_HEADER.size + position * INDEX_RECORD.size
        return bytes(self._data[start : start + ID_BYTES])

    def _entry(self, position: int) -> PackEntry:
        start = INDEX_HEADER.size + position * INDEX_RECORD.size
        raw, offset, length, kind, reserved = INDEX_RECORD.unpack_from(self._data, start)
        if any(reserved) or kind not in ENTRY_KINDS:
            raise MalformedError(
                f"{self._where}: the entry at position {position} has kind {kind} and {reserved.hex()}"
            )
        return PackEntry(object_id(raw), EntryKind(kind), offset, length)
