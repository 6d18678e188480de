"""Interleaved rANS in NumPy (spec-v1, section 6.5, step 5): one symbol of every lane at a time."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import LOWEST_STATE, MAX_CONTEXTS, SCALE, SCALE_BITS, Frequencies, Keys, States
from mvc.codecs.kernels.words import check

__all__ = ["checked_tables", "decode_lanes", "encode_lanes", "owners"]


_MANY_LANES: Final = 64
"""With fewer, a loop over single symbols takes less time than one over arrays of as many symbols as there are lanes."""

_LOW: Final = 0xFFFF
"""The bits of a state that a refill brings."""


def checked_tables(frequencies: Frequencies, symbols: int, lanes: int) -> Frequencies:
    """Return the tables, one row of `symbols` frequencies for each context, if a coder of `lanes` can use them."""
    check(frequencies.size % symbols == 0, "tables lack symbols")
    tables = frequencies.reshape(-1, symbols)
    check(0 < len(tables) <= MAX_CONTEXTS, "there must be 1 to 256 contexts")
    check(bool((tables.sum(axis=1, dtype=np.int64) == SCALE).all()), "the frequencies of a context do not sum to 2048")
    check(lanes in {1 << k for k in range(9)}, "lanes must be a power of two up to 256")
    return tables


def encode_lanes(symbols: Bytes, contexts: Bytes, tables: Frequencies, states: States) -> Keys:
    """Set the states that a decoder begins with; return what it refills them with."""
    states[:] = LOWEST_STATE
    if len(states) < _MANY_LANES:
        return _encode_one_by_one(symbols, contexts, tables, states)
    starts = np.cumsum(tables, axis=1, dtype=np.uint64) - tables
    coded: list[Keys] = []
    for begin in reversed(range(0, len(symbols), len(states))):
        s, c = symbols[begin : begin + len(states)], contexts[begin : begin + len(states)]
        x, f = states[: len(s)].astype(np.uint64), tables[c, s].astype(np.uint64)
        full = x >= f << (32 - SCALE_BITS)
        coded.append((x[full] & 0xFFFF).astype(np.uint16))
        x[full] >>= 16
        states[: len(s)] = (x // f << SCALE_BITS) + x % f + starts[c, s]
    return np.concatenate([np.empty(0, np.uint16), *reversed(coded)])


def _encode_one_by_one(symbols: Bytes, contexts: Bytes, tables: Frequencies, states: States) -> Keys:
    frequencies = tables.tolist()
    starts = (np.cumsum(tables, axis=1, dtype=np.int64) - tables).tolist()
    lanes, coded, last = states.tolist(), list[int](), len(states) - 1
    for i, s, c in zip(reversed(range(len(symbols))), symbols[::-1].tolist(), contexts[::-1].tolist(), strict=True):
        x, f = lanes[i & last], frequencies[c][s]
        if x >= f << (32 - SCALE_BITS):
            coded.append(x & _LOW)
            x >>= 16
        lanes[i & last] = (x // f << SCALE_BITS) + x % f + starts[c][s]
    states[:] = lanes
    return np.array(coded[::-1], dtype=np.uint16)


def decode_lanes(contexts: Bytes, tables: Frequencies, states: States, refills: Keys) -> Bytes | None:
    """Return the symbol of every word; None if the states end otherwise than a coder leaves them."""
    if len(states) < _MANY_LANES:
        return _decode_one_by_one(contexts, tables, states, refills)
    owner = owners(tables)
    starts = np.cumsum(tables, axis=1, dtype=np.uint32) - tables
    symbols = np.empty(len(contexts), dtype=np.uint8)
    used = 0
    for begin in range(0, len(contexts), len(states)):
        c = contexts[begin : begin + len(states)]
        x = states[: len(c)]
        y = x % np.uint32(SCALE)
        s = symbols[begin : begin + len(c)] = owner[c, y]
        x = tables[c, s] * (x >> np.uint32(SCALE_BITS)) + y - starts[c, s]
        empty = x < LOWEST_STATE
        new = refills[used : used + np.count_nonzero(empty)]
        if len(new) < np.count_nonzero(empty):
            return None
        x[empty] = x[empty] << np.uint32(16) | new
        states[: len(c)] = x
        used += len(new)
    return symbols if used == len(refills) and (states == LOWEST_STATE).all() else None


def owners(tables: Frequencies) -> Bytes:
    """Return the symbol that each place of a table belongs to, shape (contexts, SCALE)."""
    every = np.tile(np.arange(tables.shape[1], dtype=np.uint8), len(tables))
    return np.repeat(every, tables.reshape(-1)).reshape(len(tables), SCALE)


def _decode_one_by_one(contexts: Bytes, tables: Frequencies, states: States, refills: Keys) -> Bytes | None:
    frequencies = tables.tolist()
    starts = (np.cumsum(tables, axis=1, dtype=np.int64) - tables).tolist()
    owner = owners(tables).tobytes()
    lanes, coming, symbols, last = states.tolist(), iter(refills.data), bytearray(len(contexts)), len(states) - 1
    for i, c in enumerate(contexts.data):
        x = lanes[i & last]
        y = x % SCALE
        s = symbols[i] = owner[c * SCALE + y]
        x = frequencies[c][s] * (x >> SCALE_BITS) + y - starts[c][s]
        if x < LOWEST_STATE:
            new = next(coming, None)
            if new is None:
                return None
            x = x << 16 | new
        lanes[i & last] = x
    states[:] = lanes
    whole = next(coming, None) is None and (states == LOWEST_STATE).all()
    return np.frombuffer(symbols, dtype=np.uint8) if whole else None
