"""The factors of columns as a parameter of `step-delta` (spec-v1, section 6.10): few bits each."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from mvc.errors import MalformedError
from mvc.types.steps import Columns

__all__ = ["pack_columns", "unpack_columns"]

_HEAD: Final = struct.Struct("<BBBI")
"""Bits of a factor, shift, lowest factor, number of factors."""

_MOST_BITS: Final = 8


def pack_columns(columns: Columns) -> bytes:
    """Return the parameter of at least one factor.

    Examples
    --------
    >>> pack_columns(np.array([126, 128, 132, 128], np.uint8)).hex()
    '02017e0400000074'
    """
    lowest = columns.min()
    above = columns - lowest
    shift = max(0, (int(np.bitwise_or.reduce(above)) & -int(np.bitwise_or.reduce(above))).bit_length() - 1)
    bits = int(above.max() >> shift).bit_length()
    count = len(columns) if bits else 1
    packed = np.unpackbits(above[:count, None] >> shift, axis=1, count=bits, bitorder="little")
    return _HEAD.pack(bits, shift, lowest, count) + np.packbits(packed, bitorder="little").tobytes()


def unpack_columns(stored: bytes) -> Columns:
    """Undo `pack_columns`.

    Raises
    ------
    MalformedError
        If `stored` does not follow the specification. Lengths are checked before anything is unpacked.
    """
    if len(stored) < _HEAD.size:
        raise MalformedError(f"factors of columns have {len(stored)} bytes; at least {_HEAD.size} are needed")
    bits, shift, lowest, count = _HEAD.unpack_from(stored)
    room = len(stored) - _HEAD.size
    if bits + shift > _MOST_BITS or room != -(-count * bits // 8) or not count or (count > 1 and not bits):
        raise MalformedError(f"{count} factors of {bits} bits, shifted by {shift}, in {room} bytes")
    unpacked = np.unpackbits(np.frombuffer(stored, np.uint8, offset=_HEAD.size), bitorder="little")
    if unpacked[count * bits :].any():
        raise MalformedError("factors of columns have bits behind the last")
    values = np.packbits(unpacked[: count * bits].reshape(count, bits), axis=1, bitorder="little") if bits else 0
    factors = lowest + (np.broadcast_to(values, (count, 1)).reshape(-1).astype(np.int64) << shift)
    if factors.max() > np.iinfo(np.uint8).max:
        raise MalformedError(f"a factor of a column is {factors.max()}")
    columns: Columns = factors.astype(np.uint8)
    return columns
