"""How a writer chooses the row bytes of a sorted delta (spec-v1, section 6.4, step 4)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import RowSizes

__all__ = ["UNTOUCHED", "row_bytes"]

UNTOUCHED: Final = 0
"""Row byte of a row that did not change: its words come first and form a run of zeros."""

_FIRST: Final = 48
"""Row byte of the row that changed least. The gap keeps the words of untouched rows apart from the others: 24 powers of
two of the base, which is more than the weights of one tensor usually span."""

_MIN_ROW_WORDS: Final = 64
"""Shorter rows cost more than they tell: on MiniLM a scale saves 0.03 to 0.1 bits a word, and its byte takes 2 bits."""


def row_bytes(sizes: RowSizes, words: int, row_words: int) -> Bytes:
    """Return one byte for each row of a frame: how large its changes are, in half powers of two.

    The scale of a row is the square of the mean square root of its absolute changes. The mean of their logarithms says
    nothing of rows in which few words changed, and a mean of squares follows the few largest.

    Parameters
    ----------
    sizes : RowSizes, shape (rows, 2)
        From `Kernels.measure`.
    words, row_words : int
        Words of the frame and of a row.

    Returns
    -------
    Bytes, shape (rows,)
        All zero where rows tell nothing: there is one row, or rows are short.
    """
    rows = np.zeros(len(sizes), dtype=np.uint8)
    changed = sizes[:, 1] > 0
    if row_words < _MIN_ROW_WORDS or not changed.any():
        return rows
    counts = np.full(len(sizes), row_words, dtype=np.int64)
    counts[-1] = words - row_words * (len(sizes) - 1)
    scales = np.round(2 * sizes[changed, 0] + 4 * np.log2(sizes[changed, 1] / counts[changed])).astype(np.int64)
    scales -= scales.min()
    if changed.all() and not scales.any():
        return rows
    rows[changed] = np.minimum(scales + _FIRST, 255)
    return rows
