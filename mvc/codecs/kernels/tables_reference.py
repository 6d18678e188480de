"""Tables of probabilities in NumPy (spec-v1, section 6.5, step 4)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import SCALE, Bounds, Counts, Frequencies, Weights
from mvc.codecs.kernels.words import check

__all__ = ["frequencies", "levels_of", "stored_levels", "tables"]

_MAX_SYMBOLS: Final = 256
"""Symbols of a context: a byte each."""

_MAX_BOUNDS: Final = 253
"""The levels are two more, and each fits a byte."""


def _check_tables(levels: Bytes, symbols: int) -> None:
    """Check that `levels` are those of whole contexts."""
    whole = 1 <= symbols <= _MAX_SYMBOLS and levels.size > 0 and levels.size % symbols == 0
    check(whole, "there must be whole contexts of 1 to 256 symbols")


def tables(
    counts: Counts,
    symbols: int,
    trimmed: bool,  # noqa: FBT001  (positional, as a kernel takes it)
    bounds: Bounds,
    weights: Weights,
    stored: Bytes,
    frequencies: Frequencies,
    /,
) -> tuple[int, int]:
    """Write tables from counts (`Kernels.tables`)."""
    _check_tables(stored, symbols)
    check(counts.size == stored.size == frequencies.size, "counts and levels must have the same contexts")
    check(len(bounds) <= _MAX_BOUNDS and len(weights) >= len(bounds) + 3, "a level fits a byte and has a weight")
    rows = counts.reshape(-1, symbols)
    occurring = np.flatnonzero(rows.any(axis=0))
    last = int(occurring[-1]) if len(occurring) else 0
    first = int(occurring[0]) if trimmed and len(occurring) else 0
    levels = levels_of(rows[:, first : last + 1], bounds)
    stored.reshape(-1)[: levels.size] = stored_levels(levels)
    table = frequencies.reshape(rows.shape)
    table[:] = 0
    table[:, first : last + 1] = _frequencies_of(levels, weights)
    return first, last + 1 - first


def levels_of(counts: Counts, bounds: Bounds) -> Bytes:
    """Return the level of each symbol in each context, shape (contexts, symbols), from how often it occurs."""
    totals = counts.sum(axis=1, keepdims=True, dtype=np.int64)
    scaled = (counts.astype(np.int64) * SCALE << 16) // np.maximum(totals, 1)
    levels: Bytes = (2 + np.searchsorted(bounds, scaled - (1 << 16), side="right")).astype(np.uint8)
    levels[2 * scaled < 3 << 16] = 1  # nearer to a frequency of 1 than to 2
    levels[counts == 0] = 0
    levels[totals[:, 0] == 0, 0] = 1  # no symbol has this context
    return levels


def stored_levels(levels: Bytes) -> Bytes:
    """Return the bytes that state `levels`: how each differs from that of the context before, zigzag."""
    change = levels.copy()
    change[1:] -= levels[:-1]
    signs = np.right_shift(change.view(np.int8), 7).view(np.uint8)
    stored: Bytes = np.bitwise_xor(change << 1, signs).reshape(-1)
    return stored


def frequencies(levels: Bytes, symbols: int, weights: Weights, frequencies: Frequencies, /) -> None:
    """Write the frequencies that levels state (`Kernels.frequencies`)."""
    _check_tables(levels, symbols)
    rows = levels.reshape(-1, symbols)
    check(int(rows.max()) < len(weights) and bool(rows.any(axis=1).all()), "a level has no weight")
    out = frequencies.reshape(len(rows), -1)
    out[:] = 0
    out[:, :symbols] = _frequencies_of(rows, weights)


def _frequencies_of(levels: Bytes, weights: Weights) -> Frequencies:
    """Return the frequencies of contexts, each with a symbol that occurs."""
    present = levels > 0
    own = weights[levels]
    rest = (SCALE - present.sum(axis=1, dtype=np.uint64))[:, None]
    result = own * rest // np.maximum(own.sum(axis=1, dtype=np.uint64), 1)[:, None] + present
    every = np.arange(len(levels))
    result[every, result.argmax(axis=1)] += np.uint64(SCALE) - result.sum(axis=1, dtype=np.uint64)
    found: Frequencies = result.astype(np.uint16)
    return found
