"""Where the members of a zip archive lie. Nothing is decompressed, so there are no bombs.

Every offset and size is read from the central directory and compared with the member's own header. Checksums are not
compared: the bytes are kept as they are, and PyTorch may be told to write archives without them.
Layout after PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mvc.errors import DamagedFileError
from mvc.formats.abc import UNFINISHED_HINT
from mvc.types.limits import MAX_TENSORS

__all__ = ["ZipEntry", "read_directory"]

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")

_MAX_COMMENT: Final = (1 << 16) - 1
"""Bytes; the comment of an archive has a 16-bit length, so its end record is not further from the end of the file."""

_MAX_ENTRIES: Final = MAX_TENSORS + 64
"""A storage for each tensor, and the few other records of PyTorch."""

_ENCRYPTED: Final = 1 << 0
_SIZES_BEHIND: Final = 1 << 3
"""General purpose flags: the data is encrypted; the local header has zeros, the sizes follow the data."""

_WIDE: Final = 0xFFFF_FFFF
"""A 32-bit field with this value stands in the zip64 extra field."""

_ZIP64_FIELD: Final = 1
"""Id of the zip64 extra field."""


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One member of an archive.

    Parameters
    ----------
    name : bytes
        As it stands in the archive.
    offset, size : int
        First byte of the member's data in the file, and its length there.
    stored : bool
        True if these are the member's bytes, neither compressed nor encrypted.
    """

    name: bytes
    offset: int
    size: int
    stored: bool


@dataclass(frozen=True, slots=True)
class _Central:
    """An entry of the central directory."""

    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    header: int


def _damaged(text: str) -> DamagedFileError:
    return DamagedFileError(f"the zip archive is damaged: {text}", hint=UNFINISHED_HINT)


def read_directory(data: memoryview) -> dict[bytes, ZipEntry] | None:
    """Return the members of an archive that begins at the first byte of the file.

    None stands for an archive that is unusual rather than damaged: in several volumes, with something before it (such
    as several archives in one file), with a name that occurs twice, or with more members than a file may have tensors.

    Raises
    ------
    DamagedFileError
        If there is no directory at the end of the file, or it contradicts the members.
    """
    found = _find_directory(data)
    if found is None:
        return None
    count, begin, end = found
    if end - begin < count * _CENTRAL.size:
        raise _damaged(f"{count} members do not fit into a directory of {end - begin} bytes")
    if count > _MAX_ENTRIES:
        return None
    records = sorted(_central_records(bytes(data[begin:end]), count), key=lambda record: record.header)
    entries = {entry.name: entry for entry in _checked(data, records, begin)}
    return entries if len(entries) == count else None


def _find_directory(data: memoryview) -> tuple[int, int, int] | None:
    """Return the number of members and where the central directory begins and ends, or None if it is unusual."""
    tail_at = max(0, len(data) - _MAX_COMMENT - _END.size)
    tail = bytes(data[tail_at:])
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise DamagedFileError(
            f"the file is cut off: it begins as a zip archive, but its {len(data)} bytes do not end as one",
            hint=UNFINISHED_HINT,
        )
    _, disk, first_disk, count_here, count, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    wide = _read_end64(data, end)
    if wide is not None:
        end, (disk, first_disk, count_here, count, size, offset) = wide
    if disk or first_disk or count_here != count or offset + size < end:
        return None
    if offset + size > end:
        raise _damaged(f"its directory should lie at {offset} and end at {offset + size}, but it ends at {end}")
    return count, offset, end


def _read_end64(data: memoryview, end: int) -> tuple[int, tuple[int, int, int, int, int, int]] | None:
    """Return position and content of the zip64 end record, which with its locator stands before the end record."""
    at = end - _LOCATOR.size - _END64.size
    record = bytes(data[max(at, 0) : end])
    if at < 0 or not record.startswith(b"PK\x06\x06") or record[_END64.size :][:4] != b"PK\x06\x07":
        return None
    fields = _END64.unpack_from(record)
    return at, fields[4:]


def _central_records(directory: bytes, count: int) -> Iterator[_Central]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise _damaged("its directory ends within an entry")
        fields = _CENTRAL.unpack_from(directory, position)
        name_at = position + _CENTRAL.size
        extra_at = name_at + fields[10]
        position = extra_at + fields[11] + fields[12]
        if fields[0] != b"PK\x01\x02" or position > len(directory):
            raise _damaged("its directory is garbled")
        extra = _zip64_field(directory[extra_at : extra_at + fields[11]])
        size, packed, header = _widened(extra, (fields[9], fields[8], fields[16]))
        yield _Central(directory[name_at:extra_at], fields[3], fields[4], packed, size, header)
    if position != len(directory):
        raise _damaged("its directory is longer than its entries")


def _zip64_field(extra: bytes) -> bytes:
    """Return the content of the zip64 extra field, empty if there is none."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64_FIELD:
            return extra[position : position + length]
        position += length
    return b""


def _widened(extra: bytes, values: tuple[int, ...]) -> Iterator[int]:
    """Yield the values, those that say so replaced by the next 64-bit integer of the extra field."""
    position = 0
    for value in values:
        if value != _WIDE:
            yield value
            continue
        if position + 8 > len(extra):
            raise _damaged("a member's size or offset is missing")
        yield int.from_bytes(extra[position : position + 8], "little")
        position += 8


def _checked(data: memoryview, records: list[_Central], limit: int) -> Iterator[ZipEntry]:
    """Yield the members in the order of their headers, refusing those that overlap or reach into the directory."""
    free = 0
    for record in records:
        if record.header < free or record.header + _LOCAL.size > limit:
            raise _damaged(f"member {record.name[:80]!r} lies inside another, or outside of the archive")
        begin = _data_offset(data, record)
        free = begin + record.packed
        if free > limit:
            raise _damaged(f"member {record.name[:80]!r} ends at {free}, behind the start of the directory at {limit}")
        stored = record.method == 0 and not record.flags & _ENCRYPTED
        if stored and record.packed != record.size:
            raise _damaged(f"member {record.name[:80]!r} has two lengths, {record.packed} and {record.size}")
        yield ZipEntry(record.name, begin, record.packed, stored)


def _data_offset(data: memoryview, record: _Central) -> int:
    """Return where the data of a member begins, after comparing its local header with the directory."""
    at = record.header
    fields = _LOCAL.unpack_from(data, at)
    magic, _, flags, method = fields[:4]
    packed, size, name_bytes, extra_bytes = (int(field) for field in fields[7:])
    name_at = at + _LOCAL.size
    name = bytes(data[name_at : name_at + name_bytes])
    if magic != b"PK\x03\x04" or name != record.name or method != record.method:
        raise _damaged(f"member {record.name[:80]!r} is not where the directory says, at {at}")
    behind = flags & _SIZES_BEHIND and packed == size == 0
    if not behind and any(here not in {there, _WIDE} for here, there in ((packed, record.packed), (size, record.size))):
        raise _damaged(f"member {record.name[:80]!r} and the directory give different sizes")
    return name_at + name_bytes + extra_bytes
