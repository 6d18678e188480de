"""How a writer chooses the row bytes of a sorted delta (spec-v1, section 6.4, step 4)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Sums

__all__ = ["UNTOUCHED", "row_bytes"]

UNTOUCHED: Final = 0
"""Row byte of a row that did not change: its words come first and form a run of zeros."""

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
    counts = np.full(len(sums), row_words, dtype=np.int64)
    counts[-1] = words - row_words * (len(sums) - 1)
    scales = (2 * sums + counts // 2) // counts
    lowest = int(scales[changed].min())
    if changed.all() and int(scales.max()) == lowest:
        return rows
    rows[changed] = np.minimum(scales[changed] - lowest + _FIRST, 255)
    return rows
