"""Words as multiples of 2**-B, and back (spec-v1, section 6.8, steps 1 and 2)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.types import DType
from mvc.types.values import as_float64, blocks, from_float64

__all__ = ["Numbers", "fill_words", "numbers_of"]

Numbers = npt.NDArray[np.int32]
"""Shape (words,): values in units of the grid."""

_TOO_LARGE: Final = 2.0**31


def numbers_of(words: Bytes, dtype: DType, bits: int) -> Numbers:
    """Return the number of each word.

    Multiplying by a power of two is exact in float64, which has all values of `dtype`, unless the result is too large
    to matter or less than half; so is rounding. Every machine gets the same numbers.
    """
    size = dtype.word_bytes
    numbers: Numbers = np.empty(len(words) // size, dtype=np.int32)
    for part in blocks(len(numbers)):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(as_float64(dtype, words[part.start * size : part.stop * size]) * 2.0**bits)
            scaled[~(np.abs(scaled) < _TOO_LARGE)] = 0  # also what is not finite
        numbers[part] = scaled
    return numbers


def fill_words(numbers: npt.NDArray[np.integer], dtype: DType, bits: int, out: Bytes) -> None:
    """Write the word of each number; anything for a number that `dtype` does not have."""
    size = dtype.word_bytes
    for part in blocks(len(numbers)):
        with np.errstate(over="ignore", under="ignore"):
            out[part.start * size : part.stop * size] = from_float64(
                dtype, numbers[part].astype(np.float64) * 2.0**-bits
            )
