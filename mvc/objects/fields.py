"""Checked access to the fields of decoded canonical values: wrong types become `MalformedError`, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mvc.errors import MalformedError
from mvc.objects.canonical import Value
from mvc.types import ID_BYTES, ObjectId, object_id

__all__ = ["Scalar", "array", "integer", "oid", "record", "scalars", "text"]

Scalar: TypeAlias = bool | int | float | str | None
"""What metadata and parameters hold."""


def record(value: Value, keys: frozenset[str], noun: str) -> Mapping[str, Value]:
    """Return `value` as a map with exactly `keys`."""
    if not isinstance(value, Mapping):
        raise MalformedError(f"{noun} is not a map")
    if value.keys() != keys:
        raise MalformedError(f"{noun} has the fields {sorted(value)}, not {sorted(keys)}")
    return value


def array(value: Value, noun: str, lengths: tuple[int, ...] = (), most: int | None = None) -> Sequence[Value]:
    """Return `value` as an array, of one of `lengths` items or of at most `most`."""
    if not isinstance(value, list):
        raise MalformedError(f"{noun} is not an array")
    if lengths and len(value) not in lengths:
        raise MalformedError(f"{noun} has {len(value)} items, not {' or '.join(map(str, lengths))}")
    if most is not None and len(value) > most:
        raise MalformedError(f"{noun} has {len(value)} items; at most {most} are allowed")
    return value


def integer(value: Value, noun: str, least: int = 0, most: int = (1 << 64) - 1) -> int:
    """Return `value` as an integer from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise MalformedError(f"{noun} {value!r:.40} is not an integer from {least} to {most}")
    return value


def text(value: Value, noun: str, most: int | None = None) -> str:
    """Return `value` as text of at most `most` bytes."""
    if not isinstance(value, str):
        raise MalformedError(f"{noun} is not text")
    if most is not None and len(value.encode()) > most:
        raise MalformedError(f"{noun} has more than {most} bytes")
    return value


def oid(value: Value, noun: str) -> ObjectId:
    """Return `value`, a byte string of 32, as an id."""
    if not isinstance(value, bytes) or len(value) != ID_BYTES:
        raise MalformedError(f"{noun} is not an id of {ID_BYTES} bytes")
    return object_id(value)


def scalars(value: Value, noun: str) -> Mapping[str, Scalar]:
    """Return `value` as a map of text to scalars."""
    if not isinstance(value, Mapping):
        raise MalformedError(f"{noun} is not a map")
    result: dict[str, Scalar] = {}
    for key, item in value.items():
        if item is not None and not isinstance(item, bool | int | float | str):
            raise MalformedError(f"{noun} {key!r} is neither a number, text, boolean nor null")
        result[key] = item
    return result
