"""Bytes that depend on their place in a record: blocks of quantized weights, numbers in files of unknown formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import MAX_CONTEXTS, SYMBOL_BITS

__all__ = ["Records", "bits_of", "bits_of_each", "period_of", "records_of"]

_BYTES: Final = 256
"""Values of a byte."""

_PERIODS: Final = (2, 3, 4, 8, 12, 16, 17, 18, 20, 22, 24, 34, 36, 66, 84, 110, 136, 144, 176, 210)
"""Lengths of records that are looked for: numbers, short vectors of them, and the blocks of ggml's quantized types."""

_ELSEWHERE: Final = (5, 7, 11, 13, 19, 23, 29)
"""Distances at which bytes are as equal as chance makes them: none is a multiple of a period."""

_SAMPLE: Final = 1 << 16
"""Bytes that are compared with themselves, shifted: enough to tell a twentieth of all places from chance."""

_DEVIATIONS: Final = 4
"""Standard deviations above chance from which equal bytes tell a period; a false alarm costs time only."""

_UNIT: Final = 1 << 16
"""Units of `SYMBOL_BITS` in a bit."""

_AS_OFTEN: Final = 0.6
"""Multiples of a period do as well, so the shortest is taken that comes so near to the best, noise allowed."""


@dataclass(frozen=True, slots=True)
class Records:
    """Which places of a record share a table.

    Parameters
    ----------
    contexts : Bytes, shape (period,)
        The context of each place.
    counts : array of int64, shape (contexts, 256)
        How often each byte occurs in each context.
    """

    contexts: Bytes
    counts: npt.NDArray[np.int64]


def period_of(plane: Bytes) -> int:
    """Return the length of the records that `plane` seems to consist of; 0 if there are none.

    Examples
    --------
    >>> numbers = np.random.default_rng(0).normal(0, 1, 10_000).astype("<f4")
    >>> period_of(numbers.view(np.uint8)), period_of(np.resize(np.arange(251, dtype=np.uint8), 40_000))
    (4, 0)
    """
    sample = plane[:_SAMPLE]
    equal = np.array([_equal(sample, distance) for distance in _PERIODS])
    chance = np.mean([_equal(sample, distance) for distance in _ELSEWHERE])
    above = equal - chance
    if above.max() <= _DEVIATIONS * np.sqrt(chance + 1):
        return 0
    return _PERIODS[int(np.argmax(above >= _AS_OFTEN * above.max()))]


def _equal(sample: Bytes, distance: int) -> int:
    """Return how many bytes are equal to the one `distance` before."""
    return int(np.count_nonzero(sample[distance:] == sample[:-distance]))


def records_of(plane: Bytes, period: int) -> Records:
    """Return the places of a record of `period` bytes that should share tables.

    Each place joins the context that it makes least dearer, or a new one if that is cheaper.
    """
    contexts: list[int] = []
    known = np.empty((0, _BYTES), dtype=np.int64)
    for counts in _counts_of_places(plane, period):
        dearer = bits_of_each(known + counts) - bits_of_each(known)
        best = int(np.argmin(dearer)) if len(known) else 0
        if len(known) == 0 or (dearer[best] > bits_of_each(counts) and len(known) < MAX_CONTEXTS):
            best = len(known)
            known = np.concatenate([known, np.zeros_like(counts)[None]])
        known[best] += counts
        contexts.append(best)
    return Records(np.array(contexts, dtype=np.uint8), known)


def _counts_of_places(plane: Bytes, period: int) -> npt.NDArray[np.int64]:
    """Return how often each byte occurs at each place of a record, shape (period, 256)."""
    places = np.tile(np.arange(period) << 8, -(-len(plane) // period))[: len(plane)]
    places |= plane
    counts: npt.NDArray[np.int64] = np.bincount(places, minlength=period * _BYTES)
    return counts.reshape(period, _BYTES)


def bits_of(counts: npt.NDArray[np.integer]) -> float:
    """Return the bits of symbols that are coded by one table for each row, tables included; shape (tables, symbols)."""
    return float(bits_of_each(counts).sum())


def bits_of_each(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return the bits of symbols that are coded by one table, and of the table; for each of the leading dimensions."""
    totals = counts.sum(axis=-1)
    coded = totals * np.log2(np.maximum(totals, 1)) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=-1)
    bits: npt.NDArray[np.float64] = coded + SYMBOL_BITS / _UNIT * np.count_nonzero(counts, axis=-1)
    return bits
