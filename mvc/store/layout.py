"""Byte layouts of packs and pack indexes, and the records that they hold (spec-v1, section 7).

Constants, records and what the store calls bytes: nothing here reads or writes a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from mvc.types import ObjectId

__all__ = [
    "ENTRY_HEADER",
    "ENTRY_KINDS",
    "ENTRY_MAGIC",
    "ENTRY_PREFIX",
    "FORMAT_VERSION",
    "INDEX_HEADER",
    "INDEX_MAGIC",
    "INDEX_RECORD",
    "MAX_METADATA_BYTES",
    "MAX_PACK_ENTRIES",
    "PACK_HEADER",
    "PACK_MAGIC",
    "PACK_TRAILER",
    "U64",
    "Buffer",
    "EntryKind",
    "Location",
    "PackEntry",
    "StoredObject",
    "byte_view",
]

Buffer = bytes | bytearray | memoryview
"""What the store writes: any contiguous bytes. A NumPy array is passed as ``memoryview(array)``."""


def byte_view(data: Buffer) -> memoryview:
    """Return `data` as a flat view of its bytes, whatever its items and shape are; it must be C-contiguous."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # cast() refuses shapes with a zero


PACK_MAGIC: Final = b"\x89MVCP\r\n\x1a"
INDEX_MAGIC: Final = b"\x89MVCI\r\n\x1a"
ENTRY_MAGIC: Final = b"OBJ1"
FORMAT_VERSION: Final = 1
"""Version of packs and of pack indexes; they have been changed together so far."""

U64: Final = Struct("<Q")
PACK_HEADER: Final = Struct("<8sH6s")
"""Magic, version, reserved."""
ENTRY_PREFIX: Final = Struct("<4sB3sQ32s")
"""Magic, kind, reserved, length of the body, id: what the checksum of an entry's header covers."""
ENTRY_HEADER: Final = ENTRY_PREFIX.size + U64.size
"""Bytes before the body of an entry."""
PACK_TRAILER: Final = Struct("<Q32s")
"""Number of entries, id of the pack."""
INDEX_HEADER: Final = Struct("<8sH6s32sQ")
"""Magic, version, reserved, id of the pack, number of entries."""
INDEX_RECORD: Final = Struct("<32sQQB7s")
"""Id, offset of the body, length of the body, kind, reserved."""

MAX_PACK_ENTRIES: Final = 1 << 21
"""Entries of a pack: twice what the largest commit has. Bounds the memory of whoever reads it without its index."""
MAX_METADATA_BYTES: Final = 256 << 20
"""Bytes of a canonical value (spec-v1, limits): 1,000,000 tensors of 200 bytes, with room."""


class EntryKind(IntEnum):
    """What the body of a pack entry is."""

    LITERAL = 0
    TENSOR = 1
    MANIFEST = 2
    COMMIT = 3
    TAG = 4

    @property
    def is_metadata(self) -> bool:
        """Whether the body is a checksummed, compressed canonical value; otherwise it is a blob."""
        return self >= EntryKind.MANIFEST


ENTRY_KINDS: Final = frozenset(EntryKind)
"""Known kinds, to test a byte for being one."""


class PackEntry(NamedTuple):
    """One object of a pack. `offset` and `length` (bytes) are those of its body."""

    oid: ObjectId
    kind: EntryKind
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Location:
    """Where the stored bytes of an object are.

    Parameters
    ----------
    pack : ObjectId or None
        The pack that holds them; None for a loose blob.
    offset, length : int
        Bytes, inside the pack or the loose file.
    """

    pack: ObjectId | None
    offset: int
    length: int

    @property
    def is_loose(self) -> bool:
        """Whether the object is a file of its own."""
        return self.pack is None


class StoredObject(NamedTuple):
    """An object found in the store. `kind` is None for a loose blob, whose own header says what it is."""

    oid: ObjectId
    kind: EntryKind | None
    location: Location
