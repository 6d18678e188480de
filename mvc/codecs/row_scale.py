"""How a writer chooses the row bytes of sorted words (spec-v1, section 6.4, step 4, and section 6.6)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Sums

__all__ = ["UNTOUCHED", "companion_row_bytes", "row_bytes"]

UNTOUCHED: Final = 0
"""Row byte of a row that did not change: its words come first and form a run of zeros."""

_ZERO: Final = 255
"""Row byte of a row of zeros that has a companion: it comes last and forms a run."""

_SMALLEST: Final = _ZERO - 1
"""Largest row byte of a row that has a companion and is not zero."""

_FIRST: Final = 48
"""Row byte of the row that changed least. The gap keeps the words of untouched rows apart from the others: 24 powers of
two of the base, which is more than the weights of one tensor usually span."""

_MIN_ROW_WORDS: Final = 64
"""Shorter rows cost more than they tell: on MiniLM a scale saves 0.03 to 0.1 bits a word, and its byte takes 2 bits."""


def row_bytes(sums: Sums, words: int, row_words: int) -> Bytes:
    """Return one byte for each row of a frame: twice the mean size of its changes, on a logarithmic scale.

    Parameters
    ----------
    sums : Sums, shape (rows,)
        From `Kernels.measure`. Their mean over a row is log2 of an absolute change, but for a constant. It is taken
        twice because the key counts half powers of two.
    words, row_words : int
        Words of the frame and of a row.

    Returns
    -------
    Bytes, shape (rows,)
        All zero where rows tell nothing: there is one row, or rows are short.
    """
    rows = np.zeros(len(sums), dtype=np.uint8)
    changed = sums >= 0
    if row_words < _MIN_ROW_WORDS or not changed.any():
        return rows
    scales = _means(2 * sums, words, row_words)
    lowest = int(scales[changed].min())
    if changed.all() and int(scales.max()) == lowest:
        return rows
    rows[changed] = np.minimum(scales[changed] - lowest + _FIRST, 255)
    return rows


def companion_row_bytes(own: Sums, companion: Sums, words: int, row_words: int) -> Bytes:
    """Return one byte for each row of a frame: how small its words are beside what the companion promises.

    A word of Adam's first moment has about half the exponent of its second moment, less a distance that is common to
    its row, as it grows with every step that did not touch the row. Counted in quarter powers of two, as is the key.

    Parameters
    ----------
    own, companion : Sums, shape (rows,)
        From `Kernels.measure`, as changes of the frame and of its companion to zero; -1 where a row is zero.
    words, row_words : int
        Words of the frame and of a row.

    Returns
    -------
    Bytes, shape (rows,)
        0 for the row with the largest words, at most 254 for the others, 254 where the companion is zero, and 255 for
        rows of zeros. All zero where rows tell nothing: there is one row, or rows are short.
    """
    live = (own >= 0) & (companion >= 0)
    if row_words < _MIN_ROW_WORDS or len(own) == 1 or not live.any():
        return np.zeros(len(own), dtype=np.uint8)
    scales = _means(4 * own - 2 * companion, words, row_words)
    rows = np.where(live, np.minimum(scales[live].max() - scales, _SMALLEST), _SMALLEST)
    rows[own < 0] = _ZERO
    return rows.astype(np.uint8)


def _means(sums: Sums, words: int, row_words: int) -> Sums:
    """Return the mean of each row, rounded; the last row may be a part of one."""
    counts = np.full(len(sums), row_words, dtype=np.int64)
    counts[-1] = words - row_words * (len(sums) - 1)
    means: Sums = (sums + counts // 2) // counts
    return means
