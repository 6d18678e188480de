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

__all__ = ["Way", "ways"]

_SAMPLED: Final = SURVEY_CHUNKS * SURVEY_CHUNK
"""Bytes of all samples. In a shorter plane everything is tried on the whole of it."""

_BITS: Final = 8 << 16
"""Units of a surveyed entropy in a byte."""

_NOISE: Final = 0.995
"""Compressed share of the samples above which a plane is stored raw: coding it would cost time and save nothing."""

_REPEATS_GAIN: Final = 0.97
"""Searching for repeats must make the samples this much smaller: it is several times slower."""

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

    REPEATS = "repeats"
    """By zstd with a search for repeats."""

    APART = "apart"
    """The same, but for the lowest bits, which are stored by themselves."""


_SKEWED: Final = Way.STRIPES if IMPLEMENTATION == "native" else Way.LITERALS
"""How skewed bytes are coded. Interpreted, the coder of stripes takes a thousand times as long."""


def ways(plane: Bytes) -> list[Way] | None:
    """Return what to try on the whole of `plane`, shape (N,), N > 0.

    Returns
    -------
    list of Way or None
        Nothing to try if the plane looks like noise; None if it has one value.
    """
    found: Survey = np.empty(SURVEY_FIELDS, dtype=np.int64)
    kernels.active.survey(plane, LOGARITHMS, found)
    varying, again, pieces, *samples = found.tolist()
    if varying <= 1:
        return [Way.APART, _SKEWED, Way.REPEATS] if varying else None
    entropy, repeated = sum(samples[::2]) / _BITS, sum(samples[1::2])
    if again > _REPEATED * pieces:
        return [_SKEWED, Way.REPEATS, Way.APART]
    if len(plane) < _SAMPLED:
        return [_SKEWED, Way.REPEATS] if entropy < len(plane) else [Way.REPEATS]
    return _by_samples(plane, entropy, repeated)


def _by_samples(plane: Bytes, entropy: float, repeated: int) -> list[Way]:
    """Return what to try, judged by the bytes that entropy coding leaves of the samples, and places that repeat."""
    if repeated > _NEAR_REPEATED * _SAMPLED and _searched(plane) < _REPEATS_GAIN * entropy:
        return [Way.REPEATS]
    if entropy > _NOISE * _SAMPLED:
        return []
    return [_SKEWED, Way.REPEATS] if entropy < _QUIET * _SAMPLED else [_SKEWED]


def _searched(plane: Bytes) -> int:
    """Return the bytes that zstd leaves of the samples.

    Each is compressed by itself: together they would share a Huffman table that suits none of them, and searching for
    repeats would seem to win.
    """
    step = (len(plane) - SURVEY_CHUNK) // (SURVEY_CHUNKS - 1)
    chunks = (plane[k * step : k * step + SURVEY_CHUNK] for k in range(SURVEY_CHUNKS))
    return sum(len(zstd.compress(chunk, Effort.REPEATS)) for chunk in chunks)
