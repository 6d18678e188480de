"""Tables of probabilities in NumPy (spec-v1, section 6.5, step 4)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import SCALE, Bounds, Counts, Frequencies, Weights
from mvc.codecs.kernels.words import check

__all__ = ["frequencies", "levels"]

_MAX_SYMBOLS: Final = 256
"""Symbols of a context: a byte each."""

_MAX_BOUNDS: Final = 253
"""The levels are two more, and each fits a byte."""


def _check_tables(levels: Bytes, symbols: int) -> None:
    """Check that `levels` are those of whole contexts."""
    whole = 1 <= symbols <= _MAX_SYMBOLS and levels.size > 0 and levels.size % symbols == 0
    check(whole, "there must be whole contexts of 1 to 256 symbols")


def levels(counts: Counts, symbols: int, bounds: Bounds, levels: Bytes, /) -> None:
    """Write the level of each symbol in each context (`Kernels.levels`)."""
    _check_tables(levels, symbols)
    check(counts.size == levels.size, "counts and levels must have the same contexts")
    check(len(bounds) <= _MAX_BOUNDS, "a level fits a byte")
    rows = counts.reshape(-1, symbols)
    totals = rows.sum(axis=1, keepdims=True, dtype=np.int64)
    scaled = (rows.astype(np.int64) * SCALE << 16) // np.maximum(totals, 1)
    result = 2 + np.searchsorted(bounds, scaled - (1 << 16), side="right")
    result[2 * scaled < 3 << 16] = 1  # nearer to a frequency of 1 than to 2
    result[rows == 0] = 0
    result[totals[:, 0] == 0, 0] = 1  # no symbol has this context
    levels.reshape(-1, symbols)[:] = result


def frequencies(levels: Bytes, symbols: int, weights: Weights, frequencies: Frequencies, /) -> None:
    """Write the frequencies that levels state (`Kernels.frequencies`)."""
    _check_tables(levels, symbols)
    rows = levels.reshape(-1, symbols)
    present = rows > 0
    check(int(rows.max()) < len(weights) and bool(present.any(axis=1).all()), "a level has no weight")
    own = weights[rows]
    rest = (SCALE - present.sum(axis=1, dtype=np.uint64))[:, None]
    result = own * rest // np.maximum(own.sum(axis=1, dtype=np.uint64), 1)[:, None] + present
    every = np.arange(len(rows))
    result[every, result.argmax(axis=1)] += np.uint64(SCALE) - result.sum(axis=1, dtype=np.uint64)
    out = frequencies.reshape(len(rows), -1)
    out[:] = 0
    out[:, :symbols] = result
