"""How a writer chooses the row bytes of sorted words (spec-v1, section 6.4, step 4, and section 6.6)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import ROW_BLOCK, RowSizes

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


def row_bytes(sizes: RowSizes, words: int, row_words: int, measured: int = ROW_BLOCK) -> Bytes:
    """Return one byte for each row of a frame: how large its changes are, in half powers of two.

    Parameters
    ----------
    sizes : RowSizes, shape (rows, 2)
        From `Kernels.measure`.
    words, row_words : int
        Words of the frame and of a row.
    measured : int
        Of how many in every `ROW_BLOCK` words of a row `sizes` tells.

    Returns
    -------
    Bytes, shape (rows,)
        All zero where rows tell nothing: there is one row, or rows are short.
    """
    rows = np.zeros(len(sizes), dtype=np.uint8)
    changed = sizes[:, 1] > 0
    if row_words < _MIN_ROW_WORDS or len(rows) == 1 or not changed.any():
        return rows
    scales = np.round(_scales(sizes, words, row_words, measured)[changed]).astype(np.int64)
    scales -= scales.min()
    if changed.all() and not scales.any():
        return rows
    rows[changed] = np.minimum(scales + _FIRST, 255)
    return rows


def companion_row_bytes(own: RowSizes, companion: RowSizes, words: int, row_words: int) -> Bytes:
    """Return one byte for each row of a frame: how small its words are beside what the companion promises.

    A word of Adam's first moment has about half the exponent of its second moment, less a distance that is common to
    its row, as it grows with every step that did not touch the row. Counted in quarter powers of two, as is the key.

    Parameters
    ----------
    own, companion : RowSizes, shape (rows, 2)
        From `Kernels.measure`, as changes of the frame and of its companion to zero.
    words, row_words : int
        Words of the frame and of a row.

    Returns
    -------
    Bytes, shape (rows,)
        0 for the row with the largest words, at most 254 for the others, 254 where the companion is zero, and 255 for
        rows of zeros. All zero where rows tell nothing: there is one row, or rows are short.
    """
    zero = own[:, 1] == 0
    live = ~zero & (companion[:, 1] > 0)
    if row_words < _MIN_ROW_WORDS or len(own) == 1 or not live.any():
        return np.zeros(len(own), dtype=np.uint8)
    distances = 2 * _scales(own, words, row_words) - _scales(companion, words, row_words)
    rows = np.full(len(own), _SMALLEST)
    rows[live] = np.minimum(np.round(distances[live].max() - distances[live]), _SMALLEST)
    rows[zero] = _ZERO
    return rows.astype(np.uint8)


def _scales(sizes: RowSizes, words: int, row_words: int, measured: int = ROW_BLOCK) -> npt.NDArray[np.float64]:
    """Return how large the changes of each row are, in half powers of two; nothing useful for a row without changes.

    It is the square of the mean square root of the absolute changes. The mean of their logarithms says nothing of rows
    in which few words changed, and a mean of squares follows the few largest.
    """
    counts = np.full(len(sizes), _measured_words(row_words, measured), dtype=np.int64)
    counts[-1] = _measured_words(words - row_words * (len(sizes) - 1), measured)
    scales: npt.NDArray[np.float64] = 2 * sizes[:, 0] + 4 * np.log2(np.maximum(sizes[:, 1], 1) / counts)
    return scales


def _measured_words(words: int, measured: int) -> int:
    """Return how many words of a row are measured."""
    return words // ROW_BLOCK * measured + min(words % ROW_BLOCK, measured)
