"""Which ways of coding a byte plane are worth trying: found from samples, without coding the whole plane."""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np

from mvc.codecs import kernels, zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import IMPLEMENTATION, SURVEY_CHUNK, SURVEY_CHUNKS, SURVEY_FIELDS, Survey
from mvc.codecs.logarithms import LOGARITHMS
from mvc.codecs.zstd import Effort

__all__ = ["IN_ORDER", "Way", "ways"]

_SAMPLED: Final = SURVEY_CHUNKS * SURVEY_CHUNK
"""Bytes of all samples. In a shorter plane everything is tried on the whole of it."""

_BITS: Final = 8 << 16
"""Units of a surveyed entropy in a byte."""

_NOISE: Final = 0.995
"""Compressed share of the samples above which a plane is stored raw: coding it would cost time and save nothing."""

_REPEATS_GAIN: Final = 0.97
"""Searching for repeats must make the samples this much smaller: it is several times slower."""

_FEW_BLOCKS: Final = 1 << 17
"""Bytes of a sorted plane up to which its blocks are too few to follow its drift, and stripes may do better."""

_COIN: Final = 0.98
"""Entropy in bits from which a bit is stored as it is: nothing could save more than a fiftieth."""

_NEAR_REPEATED: Final = 1 / 64
"""Share of places in the samples whose 8 bytes stood before: with fewer, searching saves nothing worth the time."""

_REPEATED: Final = 1 / 32
"""Share of pieces that must have occurred before: searching costs several times the entropy coder."""

_QUIET: Final = 1 / 64
"""Share of the samples that is left by entropy coding where most of the plane is one value: runs may take less."""


class Way(Enum):
    """One way to code a plane."""

    STRIPES = "stripes"
    """By probabilities, stripe by stripe: smallest for skewed bytes without structure."""

    LITERALS = "literals"
    """By zstd's Huffman codes: the same where no kernels are compiled."""

    DRIFTING = "drifting"
    """By zstd's Huffman codes in short blocks, and its long matches: smallest for sorted words, which begin in runs."""

    REPEATS = "repeats"
    """By zstd with a search for repeats."""

    APART = "apart"
    """The same, but for the lowest bits, which are stored by themselves."""


IN_ORDER: Final = Way.STRIPES if IMPLEMENTATION == "native" else Way.LITERALS
"""How skewed bytes in the order of a tensor are coded. The coder of stripes takes 200 times as long in NumPy."""

_EFFORTS: Final = {Way.LITERALS: Effort.LITERALS, Way.DRIFTING: Effort.DRIFTING}


def ways(plane: Bytes, skewed: Way) -> list[Way] | None:
    """Return what to try on the whole of `plane`.

    Parameters
    ----------
    plane : Bytes, shape (N,)
        At least one byte.
    skewed : Way
        How the caller codes planes without repeats.

    Returns
    -------
    list of Way or None
        Nothing to try if the plane looks like noise; None if it has one value.
    """
    found = _chosen(plane, skewed)
    if found and skewed is Way.DRIFTING and IN_ORDER is Way.STRIPES and len(plane) <= _FEW_BLOCKS:
        found = [*found, Way.STRIPES]
    return found


def _chosen(plane: Bytes, skewed: Way) -> list[Way] | None:
    found: Survey = np.empty(SURVEY_FIELDS, dtype=np.int64)
    kernels.active.survey(plane, LOGARITHMS, found)
    varying, again, pieces, *samples = found.tolist()
    entropy, repeated = sum(samples[::2]) / _BITS, sum(samples[1::2])
    if varying <= 1:
        return _of_two_values(len(plane), skewed, entropy) if varying else None
    if again > _REPEATED * pieces:
        return [skewed, Way.REPEATS, Way.APART]
    if len(plane) < _SAMPLED:
        return _of_few_bytes(len(plane), skewed, entropy, repeated)
    return _by_samples(plane, skewed, entropy, repeated)


def _of_two_values(size: int, skewed: Way, entropy: float) -> list[Way]:
    """Return what to try on a plane in which only the lowest bit varies: bits, if that is a coin."""
    fair = entropy > _COIN * min(size, _SAMPLED) / 8
    return [Way.APART] if fair else [Way.APART, skewed, Way.REPEATS]


def _of_few_bytes(size: int, skewed: Way, entropy: float, repeated: int) -> list[Way]:
    """Return what to try on a plane that was surveyed as a whole."""
    searched = [Way.REPEATS] if repeated > _NEAR_REPEATED * size else []
    return [skewed, *searched] if entropy < size else searched


def _by_samples(plane: Bytes, skewed: Way, entropy: float, repeated: int) -> list[Way]:
    """Return what to try, judged by the entropy of the samples in bytes, and by how many of their places repeat."""
    left = _compressed(plane, _EFFORTS[skewed]) if skewed in _EFFORTS else entropy
    if repeated > _NEAR_REPEATED * _SAMPLED and _compressed(plane, Effort.REPEATS) < _REPEATS_GAIN * left:
        return [Way.REPEATS]
    if left > _NOISE * _SAMPLED:
        return []
    return [skewed, Way.REPEATS] if left < _QUIET * _SAMPLED else [skewed]


def _compressed(plane: Bytes, effort: Effort) -> int:
    """Return the bytes that zstd leaves of the samples.

    Each is compressed by itself: together they would share a Huffman table that suits none of them, and searching for
    repeats would seem to win.
    """
    step = (len(plane) - SURVEY_CHUNK) // (SURVEY_CHUNKS - 1)
    chunks = (plane[k * step : k * step + SURVEY_CHUNK] for k in range(SURVEY_CHUNKS))
    return sum(len(zstd.compress(chunk, effort)) for chunk in chunks)
