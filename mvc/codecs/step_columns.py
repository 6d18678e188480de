"""The factors of columns as a parameter of `step-delta` (spec-v1, section 6.10): few bits each."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from mvc.codecs import kernels
from mvc.codecs.abc import Bytes
from mvc.codecs.context_tables import tables_of, unstored_levels
from mvc.codecs.step_tables import pack_levels, unpack_levels
from mvc.codecs.stripes import frequencies_from
from mvc.errors import MalformedError
from mvc.types.steps import Columns

__all__ = ["pack_columns", "unpack_columns"]

_HEAD: Final = struct.Struct("<BBBI")
"""Bits of a factor, shift, lowest factor, number of factors."""

_MOST_BITS: Final = 8

_CODED: Final = 9
"""In place of the bits of a factor: they are coded by how often each occurs."""

_MOST_CODED: Final = 1 << 20
"""Factors that are coded: what a reader takes memory for, before anything tells that there are so many columns."""

_ONE_TABLE: Final = bytes(1)
"""The context of the only stripe."""


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
    values = above[:count] >> shift
    packed = np.packbits(np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little"), bitorder="little")
    coded = _coded(values) if 1 < count <= _MOST_CODED else None
    if coded is not None and len(coded) < len(packed):
        return _HEAD.pack(_CODED, shift, lowest, count) + coded
    return _HEAD.pack(bits, shift, lowest, count) + packed.tobytes()


def _coded(values: Bytes) -> bytes:
    """Return how often each value occurs, and the values."""
    tables = tables_of(np.bincount(values, minlength=256).astype(np.uint32)[None])
    state, refills = np.empty(1, dtype=np.uint32), np.empty(len(values) + 1, dtype=np.uint16)
    used = kernels.active.stripe_encode(values, len(values), _ONE_TABLE, tables.frequencies, state, refills)
    levels = pack_levels(unstored_levels(tables.stored, 1), 1)
    return bytes([tables.symbols - 1]) + levels + state.tobytes() + refills[:used].tobytes()


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
    rest = memoryview(stored)[_HEAD.size :]
    if shift + bits > _MOST_BITS and (bits != _CODED or shift >= _MOST_BITS):
        raise MalformedError(f"factors of columns have {bits} bits, shifted by {shift}")
    values = _uncoded(rest, count) if bits == _CODED else _unpacked(rest, bits, count)
    factors = lowest + (values.astype(np.int64) << shift)
    if factors.max() > np.iinfo(np.uint8).max:
        raise MalformedError(f"a factor of a column is {factors.max()}")
    columns: Columns = factors.astype(np.uint8)
    return columns


def _uncoded(stored: memoryview, count: int) -> Bytes:
    """Return the values that `_coded` was given."""
    if not 1 < count <= _MOST_CODED or not stored:
        raise MalformedError(f"{count} factors of columns are coded in {len(stored)} bytes")
    levels, rest = unpack_levels(stored[1:], 1, stored[0] + 1, 1)
    if len(rest) < 4 or len(rest) % 2:
        raise MalformedError(f"{count} factors of columns have {len(rest)} bytes behind their table")
    state, refills = np.frombuffer(rest[:4], "<u4").copy(), np.frombuffer(rest[4:], "<u2").copy()
    values: Bytes = np.empty(count, dtype=np.uint8)
    if not kernels.active.stripe_decode(count, _ONE_TABLE, frequencies_from(0, levels), state, refills, values):
        raise MalformedError("factors of columns do not end where their renormalisation values do")
    return values


def _unpacked(stored: memoryview, bits: int, count: int) -> Bytes:
    """Return values of so many bits."""
    if len(stored) != -(-count * bits // 8) or not count or (count > 1 and not bits):
        raise MalformedError(f"{count} factors of {bits} bits in {len(stored)} bytes")
    unpacked = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")
    if unpacked[count * bits :].any():
        raise MalformedError("factors of columns have bits behind the last")
    if not bits:
        return np.zeros(1, dtype=np.uint8)
    values: Bytes = np.packbits(unpacked[: count * bits].reshape(count, bits), axis=1, bitorder="little")
    return values.reshape(-1)
