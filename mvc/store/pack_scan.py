"""Reading packs without their index: scan forward, verify, and salvage what is whole (spec-v1, section 7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mvc.errors import FormatError, IntegrityError, MalformedError
from mvc.objects.ids import PACK, digest
from mvc.store.checks import check_prelude, check_xxh3
from mvc.store.layout import (
    ENTRY_HEADER,
    ENTRY_KINDS,
    ENTRY_MAGIC,
    ENTRY_PREFIX,
    MAX_PACK_ENTRIES,
    PACK_HEADER,
    PACK_MAGIC,
    PACK_TRAILER,
    U64,
    EntryKind,
    PackEntry,
)
from mvc.store.metadata import unwrap_metadata
from mvc.types import ID_BYTES, ObjectId, object_id

__all__ = ["Damage", "Salvage", "parse_entry", "salvage_pack", "scan_pack", "verify_pack"]

_MAGIC_PATTERN: Final = re.compile(re.escape(ENTRY_MAGIC))


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of bytes of a pack that belongs to no whole entry, and why."""

    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class Salvage:
    """What a scan of a damaged pack found: whole entries, and the ranges between them."""

    entries: tuple[PackEntry, ...]
    damages: tuple[Damage, ...]


def parse_entry(header: memoryview | bytes, offset: int, where: str) -> PackEntry:
    """Return the entry whose header, at `offset` in the pack, is `header`.

    Raises
    ------
    MalformedError, IntegrityError
        If the header is short, is none, or does not have its checksum.
    """
    at = f"{where}, entry at byte {offset}"
    if len(header) < ENTRY_HEADER:
        raise MalformedError(f"{at}: ends after {len(header)} of {ENTRY_HEADER} bytes of the header")
    magic, kind, reserved, length, raw = ENTRY_PREFIX.unpack_from(header)
    if magic != ENTRY_MAGIC:
        raise MalformedError(f"{at}: begins with {magic!r}, not with {ENTRY_MAGIC!r}")
    check_xxh3(header[: ENTRY_PREFIX.size], U64.unpack_from(header, ENTRY_PREFIX.size)[0], at)
    if any(reserved) or kind not in ENTRY_KINDS:
        raise MalformedError(f"{at}: has kind {kind} and reserved bytes {reserved.hex()}")
    return PackEntry(object_id(raw), EntryKind(kind), offset + ENTRY_HEADER, length)


def scan_pack(data: memoryview, where: str, most: int = MAX_PACK_ENTRIES) -> Iterator[PackEntry]:
    """Yield the entries of a pack from its first byte on, reading nothing but their headers.

    Neither index nor trailer is needed: the entries before a torn end are yielded before the error is raised.

    Parameters
    ----------
    data : memoryview
        The whole file, usually mapped.
    where : str
        Its name in errors.
    most : int
        Entries that it may have.

    Raises
    ------
    MalformedError, IntegrityError, FormatError
        At the entry that is one too many; at the first byte that is neither part of a whole entry nor of a trailer with
        the number of entries before it.
    """
    _check_header(data, where)
    offset, found = PACK_HEADER.size, 0
    while len(data) - offset != PACK_TRAILER.size:
        entry = _entry_at(data, offset, where)
        if found == most:
            raise MalformedError(f"{where}: has more than {most:,} entries")
        yield entry
        offset, found = entry.offset + entry.length, found + 1
    count, _ = PACK_TRAILER.unpack_from(data, offset)
    if count != found:
        raise MalformedError(f"{where}: the trailer promises {count} entries; {found} were found")


def verify_pack(data: memoryview, pack: ObjectId, where: str) -> list[PackEntry]:
    """Check every byte of a pack and return its entries.

    Blobs are covered by the id of the pack here; that they decode to the content of their ids is for the caller to say.

    Raises
    ------
    MalformedError, IntegrityError, FormatError
        If a header, the count, the id or the checksum of a metadata object is wrong, or an id occurs twice.
    """
    entries = [_with_body(entry, where) for entry in scan_pack(data, where)]
    if not entries or len({entry.oid for entry in entries}) != len(entries):
        raise MalformedError(f"{where}: has no entries, or two of one id")
    computed, stored = digest(PACK, data[:-ID_BYTES]), data[-ID_BYTES:].hex()
    if not computed == pack == stored:
        raise IntegrityError(f"{where}: the bytes have id {computed}, the trailer says {stored}, the name {pack}")
    for entry in entries:
        if entry.kind.is_metadata:
            unwrap_metadata(data[entry.offset : entry.offset + entry.length], f"{where}, object {entry.oid[:12]}")
    return entries


def _with_body(entry: PackEntry, where: str) -> PackEntry:
    """Return `entry`, refusing a metadata object that is too short for a checksum and anything behind it."""
    if entry.kind.is_metadata and entry.length <= U64.size:
        raise MalformedError(f"{where}, object {entry.oid[:12]}: {entry.length} bytes hold no checksum and frame")
    return entry


def salvage_pack(data: memoryview, where: str) -> Salvage:
    """Find every whole entry of a damaged pack, also behind the damage.

    An entry may lie inside the body of another whose header is damaged (a blob may contain a pack), so what is found is
    only a candidate until its content has been checked against its id.
    """
    entries: list[PackEntry] = []
    damages: list[Damage] = []
    offset = min(PACK_HEADER.size, len(data))
    try:
        _check_header(data, where)
    except (IntegrityError, FormatError) as error:
        damages.append(Damage(0, offset, str(error)))
    while offset < len(data) - PACK_TRAILER.size:
        try:
            entry = _entry_at(data, offset, where)
        except IntegrityError as error:
            found = _next_entry(data, offset + 1, where)
            damages.append(Damage(offset, found - offset, str(error)))
            offset = found
        else:
            entries.append(entry)
            offset = entry.offset + entry.length
    if offset != len(data) - PACK_TRAILER.size and offset < len(data):
        damages.append(Damage(offset, len(data) - offset, f"{where}: ends without a trailer"))
    return Salvage(tuple(entries), tuple(damages))


def _check_header(data: memoryview, where: str) -> None:
    if len(data) < PACK_HEADER.size:
        raise MalformedError(f"{where}: has {len(data)} bytes; the header of a pack has {PACK_HEADER.size}")
    check_prelude(*_prelude(data), where)


def _prelude(data: memoryview) -> tuple[bytes, bytes, int, bytes]:
    magic, version, reserved = PACK_HEADER.unpack_from(data)
    return magic, PACK_MAGIC, version, reserved


def _entry_at(data: memoryview, offset: int, where: str) -> PackEntry:
    entry = parse_entry(data[offset : offset + ENTRY_HEADER], offset, where)
    if entry.length > len(data) - entry.offset:
        missing = entry.length - (len(data) - entry.offset)
        raise MalformedError(
            f"{where}, entry at byte {offset}: the last {missing:,} of {entry.length:,} bytes are missing"
        )
    return entry


def _next_entry(data: memoryview, start: int, where: str) -> int:
    """Return the offset of the first whole entry at or after `start`, or the end of the pack."""
    for match in _MAGIC_PATTERN.finditer(data, start):
        try:
            _entry_at(data, match.start(), where)
        except IntegrityError:
            continue
        return match.start()
    return len(data)
