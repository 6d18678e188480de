"""Object ids: 32 bytes of BLAKE3, written as 64 lower-case hexadecimal digits."""

from __future__ import annotations

from typing import Final, NewType

from mvc.errors import InvalidInputError

__all__ = ["ID_BYTES", "ObjectId", "object_id", "raw_id"]

ObjectId = NewType("ObjectId", str)
"""The 64 lower-case hexadecimal digits of an id. Made only by `object_id`, so a value of this type is well formed."""

ID_BYTES: Final = 32
"""Bytes of a raw id: BLAKE3's default output, 128 bits of collision resistance."""

_HEX: Final = frozenset("0123456789abcdef")


def object_id(value: str | bytes) -> ObjectId:
    """Return `value`, 64 hexadecimal digits or 32 raw bytes, as an id.

    Raises
    ------
    InvalidInputError
        If the length or a digit is wrong. Upper case is refused: one id has one spelling.

    Examples
    --------
    >>> object_id(bytes(32))[:8]
    '00000000'
    """
    if isinstance(value, bytes) and len(value) == ID_BYTES:
        return ObjectId(value.hex())
    text = value.hex() if isinstance(value, bytes) else value
    if len(text) != 2 * ID_BYTES or not _HEX.issuperset(text):
        raise InvalidInputError(f"{text[:80]!r} is not an object id (64 lower-case hexadecimal digits)")
    return ObjectId(text)


def raw_id(oid: ObjectId) -> bytes:
    """Return the 32 bytes of `oid`, as binary formats store it."""
    return bytes.fromhex(oid)
