"""The tables of foretold codes in few bits (spec-v1, section 6.10): most levels are those of the context before."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.errors import MalformedError

__all__ = ["pack_levels", "unpack_levels"]

_MAX_LEVEL: Final = 46
"""Of 6.5, step 4."""

_RUN_ORDER: Final = 0
_CHANGE_ORDER: Final = 1
"""Of the exponential-Golomb codes: least bits, of 0 to 2 each, on MiniLM at 0.35 bits an element."""

_MOST_ZEROS: Final = 24
"""Before the 1 of a number: no run is as long."""

_ENTRY_BYTES: Final = 6
"""A run and a change take no more."""

Integers = npt.NDArray[np.int64]


def pack_levels(levels: Bytes, certainties: int) -> bytes:
    """Return the bytes that state levels.

    Parameters
    ----------
    levels : Bytes, shape (contexts, symbols)
        0 to 46.
    certainties : int
        Contexts of each group of scales, which follow each other.

    Examples
    --------
    >>> pack_levels(np.array([[44, 9], [44, 9], [44, 8]], np.uint8), 1).hex()
    'c1cca0a100'
    """
    table = levels.reshape(-1, certainties, levels.shape[1]).astype(np.int64)
    changes = table.copy()
    changes[1:] -= table[:-1]
    changes[0, 1:] -= table[0, :-1]
    changes[0, 0, 1:] -= table[0, 0, :-1]
    zigzag = ((changes << 1) ^ (changes >> 63)).transpose(2, 0, 1).reshape(-1)
    bits, run = list[int](), 0
    for change in zigzag.tolist():
        if change:
            bits += _number(run, _RUN_ORDER) + _number(change - 1, _CHANGE_ORDER)
        run = 0 if change else run + 1
    if run:
        bits += _number(run, _RUN_ORDER)
    return np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes()


def _number(number: int, order: int) -> list[int]:
    """Return the bits of a number."""
    number += 1 << order
    length = number.bit_length() - 1
    return [0] * (length - order) + [1] + [number >> k & 1 for k in range(length)]


def unpack_levels(stored: memoryview, contexts: int, symbols: int, certainties: int) -> tuple[Bytes, memoryview]:
    """Undo `pack_levels` for the tables that `stored` begins with; return them, and what follows.

    Raises
    ------
    MalformedError
        If `stored`, which is untrusted, ends too early, or states a level that there is not.
    """
    bits = _Bits(stored[: _ENTRY_BYTES * (contexts * symbols + 1)])
    zigzag, at = np.zeros(contexts * symbols, dtype=np.int64), 0
    while at < len(zigzag):
        at += bits.number(_RUN_ORDER)
        if at < len(zigzag):
            zigzag[at] = bits.number(_CHANGE_ORDER) + 1
            at += 1
        elif at > len(zigzag):
            raise MalformedError(f"a table has more than the {len(zigzag)} levels that it needs")
    changes = ((zigzag >> 1) ^ -(zigzag & 1)).reshape(symbols, -1, certainties).transpose(1, 2, 0)
    changes[0, 0] = np.cumsum(changes[0, 0])
    changes[0] = np.cumsum(changes[0], axis=0)
    levels: Integers = np.cumsum(changes, axis=0)
    if levels.min() < 0 or levels.max() > _MAX_LEVEL:
        raise MalformedError(f"a table has levels from {levels.min()} to {levels.max()}")
    table: Bytes = np.ascontiguousarray(levels.reshape(contexts, symbols), dtype=np.uint8)
    return table, stored[bits.used_bytes() :]


class _Bits:
    """Bits that are read one after the other."""

    def __init__(self, stored: memoryview) -> None:
        self._bits = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little").tobytes()
        self._at = 0

    def number(self, order: int) -> int:
        """Return the next number."""
        one = self._bits.find(1, self._at, self._at + _MOST_ZEROS + 1)
        end = 2 * one - self._at + 1 + order
        if one < 0 or end > len(self._bits):
            raise MalformedError("tables end within a number, or one of them is too large")
        low = self._bits[one + 1 : end]
        self._at = end
        return (1 << len(low)) + sum(bit << k for k, bit in enumerate(low)) - (1 << order)

    def used_bytes(self) -> int:
        """Return how many bytes were begun; those bits of the last that were not read must be 0."""
        used = -(-self._at // 8)
        if any(self._bits[self._at : 8 * used]):
            raise MalformedError("there are bits behind the tables")
        return used
