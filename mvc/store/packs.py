"""Writing packs: many objects in one file, each describing itself (spec-v1, section 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_intdigest

from mvc.errors import InvalidInputError
from mvc.objects.ids import PACK, finish, hasher
from mvc.store.layout import (
    ENTRY_HEADER,
    ENTRY_MAGIC,
    ENTRY_PREFIX,
    FORMAT_VERSION,
    MAX_PACK_ENTRIES,
    PACK_HEADER,
    PACK_MAGIC,
    PACK_TRAILER,
    U64,
    Buffer,
    EntryKind,
    PackEntry,
    byte_view,
)
from mvc.store.pack_index import encode_index
from mvc.store.tmp import Draft, Temporaries
from mvc.types import ObjectId, raw_id

__all__ = ["PackWriter", "index_path", "pack_path"]

_FLUSH: Final = 1 << 20
"""Bytes gathered before a write: entries are often a few hundred bytes, and every write is a system call."""


def pack_path(directory: Path, pack: ObjectId) -> Path:
    """Return where a pack is, or would be."""
    return directory / f"{pack}.pack"


def index_path(directory: Path, pack: ObjectId) -> Path:
    """Return where the index of a pack is, or would be."""
    return directory / f"{pack}.idx"


def packed_bytes(lengths: Iterable[int], limit: int) -> int:
    """Return the bytes of the packs that bodies of these lengths become, each ended once it has `limit` bytes."""
    ended = size = 0
    for length in lengths:
        size = (size or PACK_HEADER.size + PACK_TRAILER.size) + ENTRY_HEADER + length
        if size - PACK_TRAILER.size >= limit:
            ended, size = ended + size, 0
    return ended + size


class PackWriter:
    """Stream entries into a draft, then give the pack the name of its content.

    Not to be shared by threads. `entries` holds what has been added, by id.

    Parameters
    ----------
    draft : Draft
        An empty temporary. Whoever made it discards it.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._hasher = hasher(PACK)
        self._pending = bytearray()
        self.entries: dict[ObjectId, PackEntry] = {}
        self.size = 0
        self._append(PACK_HEADER.pack(PACK_MAGIC, FORMAT_VERSION, bytes(6)))

    def add(self, kind: EntryKind, oid: ObjectId, body: Buffer | Sequence[Buffer]) -> bool:
        """Append an entry; its body may come in pieces. Return False, having done nothing, if `oid` is there."""
        if oid in self.entries:
            return False
        pieces = [byte_view(piece) for piece in ([body] if isinstance(body, Buffer) else body)]
        self.add_stream(kind, oid, sum(len(piece) for piece in pieces), pieces)
        return True

    def add_stream(self, kind: EntryKind, oid: ObjectId, length: int, pieces: Iterable[Buffer]) -> None:
        """Append an entry that is not there yet, of `length` bytes that come in pieces, for one too large for memory.

        InvalidInputError if other bytes come than that many; the pack is then of no use.
        """
        prefix = ENTRY_PREFIX.pack(ENTRY_MAGIC, kind, bytes(3), length, raw_id(oid))
        self._append(prefix + U64.pack(xxh3_64_intdigest(prefix)))
        self.entries[oid] = PackEntry(oid, kind, self.size, length)
        for piece in pieces:
            self._append(piece)
        entry = self.entries[oid]
        if self.size != entry.offset + entry.length:
            raise InvalidInputError(f"{oid[:12]} has {self.size - entry.offset:,} bytes, not {entry.length:,}")

    def is_full(self, size: int, entries: int = MAX_PACK_ENTRIES) -> bool:
        """Return whether the pack has `size` bytes, or as many `entries` as a pack may have: then another is begun."""
        return self.size >= size or len(self.entries) >= entries

    def publish(self, directory: Path, temporaries: Temporaries) -> ObjectId:
        """Complete the pack and make it, then its index, visible in `directory`; return its id.

        Both contents are durable on return; their names are after an fsync of `directory`. A pack of the same id holds
        the same bytes, so replacing it is harmless.
        """
        pack = self.finish()
        self._draft.publish(pack_path(directory, pack))
        temporaries.write(index_path(directory, pack), encode_index(pack, self.entries.values()))
        return pack

    def finish(self) -> ObjectId:
        """Complete the pack in its draft, for one that goes elsewhere; return its id. Nothing can be added any more."""
        if not self.entries:
            raise InvalidInputError("a pack without entries must not be written")
        self._append(U64.pack(len(self.entries)))
        pack = finish(self._hasher)
        self._append(raw_id(pack))
        self._flush()
        return pack

    def _append(self, data: Buffer) -> None:
        """Write `data` through the buffer, which large pieces pass by."""
        self._hasher.update(data)
        self.size += len(data)
        if len(data) >= _FLUSH:
            self._flush()
            self._draft.write(data)
            return
        self._pending += data
        if len(self._pending) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._draft.write(self._pending)
            self._pending = bytearray()
