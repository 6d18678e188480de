"""Contexts and their tables of probabilities (spec-v1, section 6.5, steps 3 and 4): integers in, integers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mvc.codecs import kernels
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import MAX_CONTEXTS, Counts, Frequencies, Keys
from mvc.errors import MalformedError

__all__ = ["Tables", "context_limits", "contexts_of_keys", "frequencies_of", "tables_of", "unstored_levels"]

_CONTEXT_WORDS: Final = 3072
"""Words for which a table pays: it takes some 10 bytes. With 4,096 fine-tunes of 65 thousand words a tensor were 0.1 to
0.2 % larger, with 2,048 no smaller."""

_QUARTERS: Final = np.array([65_536, 77_936, 92_682, 110_218], dtype=np.uint64)
"""2**16 times 2**(k/4)."""

_MAX_LEVEL: Final = 46
"""The level of the weight 2**27, 2**11 times that of level 2."""

_WEIGHTS: Final = np.concatenate(
    [np.zeros(2, np.uint64), *(_QUARTERS << np.uint64(octave) for octave in range(11)), _QUARTERS[:1] << np.uint64(11)]
)
"""Weight of each level."""

_BOUNDS: Final = np.sqrt(_WEIGHTS[2:-1].astype(np.float64) * _WEIGHTS[3:]).astype(np.int64)
"""Frequencies less 1, times 2**16, from which the next level is nearer."""


def context_limits(counts: Counts, step: int = 1) -> Keys:
    """Return where to part the keys into contexts of about `_CONTEXT_WORDS` words.

    Parameters
    ----------
    counts : array of uint32, shape (keys,)
        Words of each key.
    step : int
        Words of the frame for each one that was counted.

    Returns
    -------
    array of uint16
        Ascending, none of them 0: the first key of each context but the first.
    """
    used = np.flatnonzero(counts)
    words = counts[used].astype(np.int64)
    unit = max(_CONTEXT_WORDS // step, -(-int(words.sum()) // (MAX_CONTEXTS - 2)))
    middles = np.cumsum(words) - (words + 1) // 2
    parts = middles // unit
    limits: Keys = used[1:][parts[1:] != parts[:-1]].astype(np.uint16)
    return limits


def contexts_of_keys(limits: Keys, keys: int) -> Bytes:
    """Return the context of each of `keys` keys."""
    starts = np.zeros(keys, dtype=np.uint8)
    starts[limits[limits < keys]] = 1
    contexts: Bytes = np.cumsum(starts, dtype=np.uint8)
    return contexts


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables of probabilities, one for each context.

    Parameters
    ----------
    first, symbols : int
        The lowest symbol that is stated, and how many are.
    stored : Bytes, shape (contexts * symbols,)
        The bytes that state them: how each level differs from that of the context before, zigzag.
    frequencies : Frequencies, shape (contexts, every symbol there can be)
        What a coder works with.
    """

    first: int
    symbols: int
    stored: Bytes
    frequencies: Frequencies


def tables_of(counts: Counts, *, trimmed: bool = False) -> Tables:
    """Return the tables of contexts in which symbols occur so often.

    Parameters
    ----------
    counts : Counts, shape (contexts, symbols)
        Not modified.
    trimmed : bool
        Whether the tables may begin with the first symbol that occurs.
    """
    contexts, every = counts.shape
    stored: Bytes = np.empty(counts.size, dtype=np.uint8)
    frequencies: Frequencies = np.empty(counts.shape, dtype=np.uint16)
    first, symbols = kernels.active.tables(counts, every, trimmed, _BOUNDS, _WEIGHTS, stored, frequencies)
    return Tables(first, symbols, stored[: contexts * symbols], frequencies)


def frequencies_of(levels: Bytes, symbols: int) -> Frequencies:
    """Return the frequencies that `levels` state.

    Parameters
    ----------
    levels : array of uint8, shape (contexts, symbols)
        Untrusted.
    symbols : int
        How many there can be, at least as many as `levels` have.

    Returns
    -------
    Frequencies
        0 for the symbols that `levels` leaves out.

    Raises
    ------
    MalformedError
        If a level is too high, or a context has no symbol.
    """
    if levels.max() > _MAX_LEVEL or not levels.any(axis=1).all():
        raise MalformedError(f"a context has a level above {_MAX_LEVEL}, or no symbol")
    frequencies: Frequencies = np.empty((len(levels), symbols), dtype=np.uint16)
    kernels.active.frequencies(levels, levels.shape[1], _WEIGHTS, frequencies)
    return frequencies


def unstored_levels(stored: Bytes, contexts: int) -> Bytes:
    """Return the levels that the bytes of `Tables.stored` state, shape (contexts, symbols), modulo 256."""
    change = (stored >> 1) ^ (~(stored & 1) + np.uint8(1))
    levels: Bytes = np.cumsum(change.reshape(contexts, -1), axis=0, dtype=np.uint8)
    return levels
