"""Canonical values: the deterministic CBOR subset in which metadata objects are written (spec-v1, section 3).

One value has one encoding. The reader refuses everything that the writer would not have written, so an id can always be
computed again from the value.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from mvc.errors import InvalidInputError, MalformedError

__all__ = ["Rows", "Value", "decode", "encode"]

Value: TypeAlias = "bool | int | float | str | bytes | Sequence[Value] | Mapping[str, Value] | None"

_MAX_NESTING: Final = 16
"""Levels of arrays and maps; bounds the reader's stack. Our deepest object, the manifest, has 5."""

_CONTAINERS_FREE: Final = 256
"""Arrays that a value may have however short it is."""
_ARRAYS_PER_MAP: Final = 4
"""For how many arrays a map counts: it takes twice the memory, and no object has an array of them."""
_BYTES_PER_CONTAINER: Final = 4
"""Bytes that there must be for each further one: an array takes some 90 bytes of memory, and one byte if it is empty.
The densest object is a manifest of empty files: two arrays in 8 bytes each, if paths and formats had one byte."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP = range(6)
_LONG: Final = 24
"""Arguments below it stand in the initial byte; from here on, it says in how many bytes they follow."""
_OTHERS: Final = 0xC0
"""Initial bytes from here on are tags, which are refused, and what is in no other type: simple values and floats."""
_ID_HEAD: Final = bytes([0x58, 32])
"""How a byte string of 32 begins."""
_SHORT_TEXT: Final = 0x60
"""Initial byte of an empty text; those of longer ones, up to 23 bytes, follow."""
_SHORT_LENGTHS: Final = bytes(
    34 if initial == _ID_HEAD[0] else max(1, initial - _SHORT_TEXT + 1) if initial < _SHORT_TEXT + _LONG else 1
    for initial in range(256)
)
"""By initial byte: how many bytes an id, a short text or a small integer takes with it."""
_SIMPLE: Final[dict[int, bool | None]] = {0xF4: False, 0xF5: True, 0xF6: None}
_FLOAT64: Final = 0xFB
_NAN: Final = bytes.fromhex("fb7ff8000000000000")
_WIDTHS: Final = {24: (1, 24), 25: (2, 1 << 8), 26: (4, 1 << 16), 27: (8, 1 << 32)}
"""Additional information -> (bytes of the argument, smallest value that needs them)."""


def encode(value: Value) -> bytes:
    """Return the one encoding of `value`.

    Raises
    ------
    InvalidInputError
        If a value is of another type, an integer needs more than 64 bits, text holds a lone surrogate, or arrays and
        maps are nested more than 16 deep.

    Examples
    --------
    >>> encode({"b": 1, "a": [None, True, -1]}).hex()
    'a2616183f6f520616201'
    """
    out = bytearray()
    _write(out, value, 0)
    return bytes(out)


def _head(out: bytearray, major: int, argument: int) -> None:
    prefix = major << 5
    if argument < _LONG:
        out.append(prefix | argument)
    elif argument < 1 << 8:
        out.append(prefix | 24)
        out.append(argument)
    elif argument < 1 << 16:
        out += struct.pack(">BH", prefix | 25, argument)
    elif argument < 1 << 32:
        out += struct.pack(">BI", prefix | 26, argument)
    elif argument < 1 << 64:
        out += struct.pack(">BQ", prefix | 27, argument)
    else:
        raise InvalidInputError(f"integer {argument} needs more than 64 bits")


def _write(out: bytearray, value: Value, depth: int) -> None:
    if depth > _MAX_NESTING:
        raise InvalidInputError(f"value is nested more than {_MAX_NESTING} deep")
    if isinstance(value, str):
        text = _utf8(value)
        _head(out, _TEXT, len(text))
        out += text
    elif isinstance(value, bytes):
        _head(out, _BYTES, len(value))
        out += value
    elif value is None or isinstance(value, bool):
        out.append(0xF6 if value is None else 0xF5 if value else 0xF4)
    elif isinstance(value, int):
        _head(out, _NEGATIVE if value < 0 else _UNSIGNED, -1 - value if value < 0 else value)
    elif isinstance(value, float):
        out += _NAN if math.isnan(value) else struct.pack(">Bd", _FLOAT64, value)
    elif isinstance(value, list | tuple):  # before the abstract ones, which take longer to ask for
        _write_array(out, value, depth)
    elif isinstance(value, Mapping):
        _write_map(out, value, depth)
    elif isinstance(value, Sequence):
        _write_array(out, value, depth)
    else:
        raise InvalidInputError(f"a {type(value).__name__} cannot be recorded")


def _write_array(out: bytearray, value: Sequence[Value], depth: int) -> None:
    """Append an array; what manifests and envelopes consist of is written without a call."""
    _head(out, _ARRAY, len(value))
    if value and depth >= _MAX_NESTING:
        raise InvalidInputError(f"value is nested more than {_MAX_NESTING} deep")
    for item in value:
        if type(item) is int and 0 <= item < _LONG:
            out.append(item)
        elif type(item) is bytes and len(item) == _ID_HEAD[1]:
            out += _ID_HEAD + item
        elif type(item) is str and len(item) < _LONG and item.isascii():
            out.append(_SHORT_TEXT + len(item))
            out += item.encode()
        else:
            _write(out, item, depth + 1)


def _write_map(out: bytearray, value: Mapping[str, Value], depth: int) -> None:
    _head(out, _MAP, len(value))
    entries = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidInputError(f"map key {key!r} is not text")
        encoded = bytearray()
        _write(encoded, key, depth + 1)
        entries.append((bytes(encoded), item))
    for encoded_key, item in sorted(entries, key=lambda entry: entry[0]):
        out += encoded_key
        _write(out, item, depth + 1)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInputError(f"text {text[:40]!r} holds a lone surrogate and is not valid Unicode") from None


class Rows:
    """Arrays of arrays of the values that were decoded before, to be recognised when they come again.

    Histories consist of values that differ in few rows. No encoding is the beginning of another one, so bytes that
    begin with one that was decoded before are that value again. What is recognised is the same object: whoever decodes
    with this must not change what it is given.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], tuple[list[bytes], list[Value]]] = {}

    def at(self, path: tuple[int, ...]) -> tuple[list[bytes], list[Value]]:
        """Return encodings and values of the rows that were last found at a place of a value."""
        return self._kept.get(path, ([], []))

    def keep(self, path: tuple[int, ...], encodings: list[bytes], values: list[Value]) -> None:
        """Note the rows that were found at a place of a value."""
        self._kept[path] = encodings, values


def decode(data: bytes | memoryview, rows: Rows | None = None) -> Value:
    """Return the value that `data` encodes; with `rows`, what it shares with values decoded before is not read again.

    Raises
    ------
    MalformedError
        If `data` is not what `encode` writes: truncated, trailing bytes, longer than necessary, keys unsorted or twice,
        a type outside the subset, nested too deep, or if there are too many arrays and maps for its length. Memory
        stays proportional to ``len(data)``.

    Examples
    --------
    >>> decode(bytes.fromhex("a2616183f6f520616201"))
    {'a': [None, True, -1], 'b': 1}
    """
    reader = _Reader(bytes(data), rows)
    value = reader.value(0)
    if reader.position != len(reader.data):
        raise MalformedError(f"{len(reader.data) - reader.position} bytes follow the canonical value")
    return value


class _Reader:
    """Reads one value after the other. A manifest has ten for every tensor, so calls and attributes are few here."""

    def __init__(self, data: bytes, rows: Rows | None) -> None:
        self.data = data
        self.position = 0
        self.rows = rows
        self.path = [0]
        self.containers_left = _CONTAINERS_FREE + len(data) // _BYTES_PER_CONTAINER

    def value(self, depth: int) -> Value:
        """Return the next value."""
        if depth > _MAX_NESTING:
            raise _too_deep()
        data, start = self.data, self.position
        if start >= len(data):
            raise self.truncated(1)
        initial = data[start]
        self.position = start + 1
        if initial >= _OTHERS:
            return self.simple(initial)
        major, argument = initial >> 5, initial & 31
        if argument >= _LONG:
            argument = self.argument(argument)
        if major == _UNSIGNED:
            return argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            return self.array(argument, depth + 1)
        return -1 - argument if major == _NEGATIVE else self.map(argument, depth + 1)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        start, end = self.position, self.position + count
        if end > len(self.data):
            raise self.truncated(count)
        self.position = end
        return self.data[start:end]

    def truncated(self, count: int) -> MalformedError:
        """Return the error that says that `count` bytes are not there."""
        return MalformedError(
            f"canonical value ends at byte {len(self.data)}, {count} more promised at {self.position}"
        )

    def argument(self, info: int) -> int:
        """Return the argument behind an initial byte, refusing longer forms than needed."""
        if info not in _WIDTHS:
            raise MalformedError(f"additional information {info} at byte {self.position - 1} is not canonical")
        width, least = _WIDTHS[info]
        value = int.from_bytes(self.take(width), "big")
        if value < least:
            raise MalformedError(f"integer at byte {self.position - width} is not in its shortest form")
        return value

    def simple(self, initial: int) -> bool | float | None:
        """Return a simple value or a float; of all NaNs only the canonical one is allowed."""
        start = self.position - 1
        if initial in _SIMPLE:
            return _SIMPLE[initial]
        if initial != _FLOAT64:
            raise MalformedError(f"initial byte {initial:#04x} at {start} is outside the canonical subset")
        number: float = struct.unpack(">d", self.take(8))[0]
        if math.isnan(number) and self.data[start : self.position] != _NAN:
            raise MalformedError(f"NaN at byte {start} is not the canonical one")
        return number

    def text(self, length: int) -> str:
        """Return `length` bytes as text."""
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"text before byte {self.position} is not UTF-8: {error.reason}") from None

    def array(self, items: int, depth: int) -> list[Value]:
        """Return an array. What manifests consist of, small integers, ids and short texts, is read without a call."""
        self.check_room(items, 1)
        if items and depth > _MAX_NESTING:
            raise _too_deep()
        data, size, start = self.data, len(self.data), self.position
        if self.rows is not None and items and start < size and data[start] >> 5 == _ARRAY:
            return self.recognised(items, depth, self.rows)
        result: list[Value] = []
        for _ in range(items):
            initial = data[start] if start < size else _OTHERS
            end = start + _SHORT_LENGTHS[initial]
            if initial < _LONG:
                result.append(initial)
            elif initial == _ID_HEAD[0] and data[start + 1 : start + 2] == _ID_HEAD[1:] and end <= size:
                result.append(data[start + 2 : end])
            elif _SHORT_TEXT <= initial < _SHORT_TEXT + _LONG and end <= size and data[start + 1 : end].isascii():
                result.append(data[start + 1 : end].decode())
            else:
                self.position = start
                result.append(self.value(depth))
                end = self.position
            start = end
        self.position = start
        return result

    def recognised(self, items: int, depth: int, rows: Rows) -> list[Value]:
        """Return an array of arrays; those that are as they were in the value before are not read."""
        data, start, path = self.data, self.position, (depth, *self.path)
        encodings, values = rows.at(path)
        found: list[bytes] = []
        result: list[Value] = []
        for place in range(items):
            known = place < len(encodings) and data.startswith(encodings[place], start)
            if known:
                encoded, value = encodings[place], values[place]
            else:
                self.position = start
                self.path += (place, 0)
                value = self.value(depth)
                del self.path[-2:]
                encoded = data[start : self.position]
            found.append(encoded)
            result.append(value)
            start += len(encoded)
        self.position = start
        self.path[-1] += 1
        rows.keep(path, found, result)
        return result

    def map(self, entries: int, depth: int) -> dict[str, Value]:
        """Return a map, whose keys must be texts in the order of their encodings."""
        self.check_room(entries, _ARRAYS_PER_MAP)
        result: dict[str, Value] = {}
        previous = b""
        for _ in range(entries):
            start = self.position
            key = self.value(depth)
            encoded = self.data[start : self.position]
            if not isinstance(key, str):
                raise MalformedError(f"map key at byte {start} is not text")
            if encoded <= previous:
                raise MalformedError(f"map keys at byte {start} are not in order")
            previous = encoded
            result[key] = self.value(depth)
        return result

    def check_room(self, items: int, containers: int) -> None:
        """Refuse an array or map whose count the bytes left cannot hold, or that is one too many."""
        self.containers_left -= containers
        if self.containers_left < 0:
            raise MalformedError(
                f"too many arrays and maps for {len(self.data):,} bytes, at byte {self.position}: one array for "
                f"{_BYTES_PER_CONTAINER} bytes are allowed, and {_CONTAINERS_FREE}; a map counts {_ARRAYS_PER_MAP}"
            )
        if items > len(self.data) - self.position:
            raise MalformedError(f"{items} items promised at byte {self.position}, fewer bytes are left")


def _too_deep() -> MalformedError:
    return MalformedError(f"canonical value is nested more than {_MAX_NESTING} deep")
