"""safetensors files: a length, a JSON header, the tensors. No hole and no overlap, so every doubt is visible.

Byte layout: u64 length of the header; the header, a JSON object ``{name: {dtype, shape, data_offsets}}`` with an
optional ``__metadata__``, padded with spaces; then the data, to which the offsets are relative.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from mvc.errors import DamagedFileError, InvalidInputError
from mvc.formats.abc import UNFINISHED_HINT, FileMap, Format, LogicalTensor, TensorRegion
from mvc.types import DTYPES, MAX_RANK, TensorSpec
from mvc.types.limits import MAX_TENSORS, is_tensor_name

__all__ = ["LENGTH_BYTES", "MAX_HEADER_BYTES", "METADATA_KEY", "SafeTensors"]

LENGTH_BYTES: Final = 8
"""Bytes of the length field."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The cap of the safetensors library; a longer header is refused by it too."""

METADATA_KEY: Final = "__metadata__"
"""The key of the header that is not a tensor."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the header, with checked types; `begin` and `end` are relative to the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafeTensors(Format):
    """``*.safetensors``, and files without that ending whose first bytes are a safetensors header."""

    name: ClassVar[str] = "safetensors"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def recognises(self, name: str, head: bytes) -> bool:
        """Return True by ending, or by a plausible length followed by ``{"``."""
        if name.lower().endswith(self.suffixes):
            return True
        return head[LENGTH_BYTES : LENGTH_BYTES + 2] == b'{"' and _header_length(head) <= MAX_HEADER_BYTES

    def locate(self, data: memoryview) -> FileMap:
        """Return the tensors of the header. Unknown dtypes, holes and trailing bytes are literal."""
        header, start = _read_header(data)
        if _has_too_many_parts(header):
            return FileMap(self.name, ())
        entries = sorted(_entries(_parse(header)), key=lambda entry: (entry.begin, entry.end))
        _check_layout(entries, len(data) - start)
        return FileMap(self.name, tuple(_regions(entries, start)))


def _damaged(text: str) -> DamagedFileError:
    return DamagedFileError(text, hint=UNFINISHED_HINT)


def _header_length(head: bytes) -> int:
    return int.from_bytes(head[:LENGTH_BYTES], "little")


def _read_header(data: memoryview) -> tuple[bytes, int]:
    """Return the bytes of the header and the offset of the data."""
    head = bytes(data[: 2 * LENGTH_BYTES])
    if head.startswith(b"version https:/"):
        raise DamagedFileError("the file is a Git LFS pointer, not a checkpoint", hint="run: git lfs pull")
    if len(head) < LENGTH_BYTES:
        raise _damaged(f"a safetensors file has at least {LENGTH_BYTES} bytes; there are {len(head)}")
    length = _header_length(head)
    if length > MAX_HEADER_BYTES:
        raise _damaged(f"the safetensors header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    start = LENGTH_BYTES + length
    if start > len(data):
        raise _damaged(f"the file is cut off: its header alone promises {start} bytes, there are {len(data)}")
    return bytes(data[LENGTH_BYTES:start]), start


def _has_too_many_parts(header: bytes) -> bool:
    """Return True if parsing the header would make more objects than `MAX_TENSORS` tensors need.

    A tensor has one brace and two brackets; twice that allows for names with brackets in them.
    """
    return header.count(b"{") > 2 * MAX_TENSORS or header.count(b"[") > 4 * MAX_TENSORS


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _parse(header: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(header.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"the safetensors header is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(parsed, dict):
        raise _damaged("the safetensors header is not a JSON object")
    return parsed


def _entries(header: dict[str, object]) -> Iterable[_Entry]:
    return (_entry(name, value) for name, value in header.items() if name != METADATA_KEY)


def _entry(name: str, value: object) -> _Entry:
    """Return the checked entry; fields that are not known are ignored, as the library does."""
    fields = value if isinstance(value, dict) else {}
    match fields.get("dtype"), _integers(fields.get("shape")), _integers(fields.get("data_offsets")):
        case str(dtype), tuple(shape), (begin, end):
            return _Entry(name, dtype, shape, begin, end)
    raise _damaged(f"the safetensors header describes {name[:80]!r} wrongly")


def _integers(value: object) -> tuple[int, ...] | None:
    """Return a list of unsigned 64-bit integers as a tuple, or None if it is anything else."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 64 for item in value):
        return None
    return tuple(value)


def _check_layout(entries: list[_Entry], available: int) -> None:
    """Refuse overlaps, ranges outside of the file, and lengths that contradict dtype and shape."""
    position = 0
    for entry in entries:
        if entry.end < entry.begin or entry.begin < position:
            raise _damaged(f"tensor {entry.name[:80]!r} overlaps another, or ends before it begins")
        _check_length(entry)
        position = entry.end
    if position > available:
        raise _damaged(f"the file is cut off: its header promises {position} bytes of tensors, there are {available}")


def _check_length(entry: _Entry) -> None:
    if entry.dtype not in DTYPES or len(entry.shape) > MAX_RANK:
        return
    try:
        expected = TensorSpec(DTYPES[entry.dtype], entry.shape).nbytes
    except InvalidInputError as error:
        raise _damaged(f"tensor {entry.name[:80]!r}: {error.message[:300]}") from None
    if expected != entry.end - entry.begin:
        length = entry.end - entry.begin
        raise _damaged(f"tensor {entry.name[:80]!r} has {length} bytes; dtype and shape need {expected}")


def _regions(entries: list[_Entry], start: int) -> Iterable[TensorRegion]:
    for entry in entries:
        if entry.dtype in DTYPES and len(entry.shape) <= MAX_RANK and is_tensor_name(entry.name):
            spec = TensorSpec(DTYPES[entry.dtype], entry.shape)
            yield TensorRegion(start + entry.begin, spec, (LogicalTensor(entry.name, spec),))
