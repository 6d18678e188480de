"""Tensors that lie whole steps from a base: the one definition of their elements (spec-v1, section 6.10).

Apart from the rest of `mvc.types` because it needs NumPy. Elementwise sums and products of float32 that are rounded one
by one, so every machine computes the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.types.dtypes import DType

__all__ = [
    "COLUMN_ONE",
    "LARGEST_CODE",
    "LARGEST_STEP",
    "SMALLEST_STEP",
    "STEPPED",
    "Codes",
    "Columns",
    "Floats",
    "Words",
    "column_factors",
    "finite",
    "from_float32",
    "step_of",
    "stepped",
    "to_float32",
]

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.unsignedinteger]
Codes = npt.NDArray[np.int32]
"""How many steps each element lies from its base."""
Columns = npt.NDArray[np.uint8]
"""The factor of each column, as `column_factors` reads it."""

STEPPED: Final = frozenset({"F16", "BF16", "F32"})
"""Element types that are stepped; float32 holds their values."""

COLUMN_ONE: Final = 128
"""The column byte whose factor is 1."""

LARGEST_CODE: Final = (1 << 24) - 1
"""Steps; float32 holds every integer up to it."""

SMALLEST_STEP: Final = 2.0**-64
LARGEST_STEP: Final = 2.0**64
"""Steps of rows. With the factors of columns no product or sum of a code and a step is subnormal in float32, so a
processor that was told to take those for zero computes the same."""

_EIGHTHS: Final = np.array(
    [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7], dtype=np.uint32
).view(np.float32)
"""2**(k/8), by their bits, so that no library's power function decides."""

_BIAS: Final = COLUMN_ONE >> 3


def column_factors(columns: Columns) -> Floats:
    """Return 2**((column - 128) / 8) for each column byte.

    Examples
    --------
    >>> column_factors(np.array([120, 128, 132, 136], np.uint8)).tolist()
    [0.5, 1.0, 1.4142135381698608, 2.0]
    """
    factors: Floats = np.ldexp(_EIGHTHS[columns & 7], (columns >> 3).astype(np.int32) - _BIAS)
    return factors


def step_of(rows: Floats, columns: Columns) -> Floats:
    """Return the steps of a matrix, shape (R, C), of which `rows` has R or 1 and `columns` C or 1."""
    steps: Floats = rows[:, None] * column_factors(columns)
    return steps


def to_float32(dtype: DType, words: Words) -> Floats:
    """Return the values of words of a type of `STEPPED`, exactly."""
    if dtype.name == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32)
    return words.view("<f2" if dtype.name == "F16" else "<f4").astype(np.float32)


def from_float32(dtype: DType, values: Floats) -> Words:
    """Return the words of finite values, rounded to the nearest, ties to even; what is too large becomes infinite."""
    if dtype.name == "F32":
        return values.view("<u4")
    if dtype.name == "F16":
        return values.astype("<f2").view("<u2")
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")


def finite(dtype: DType, words: Words) -> npt.NDArray[np.bool_]:
    """Return where words of a type of `STEPPED` are neither infinite nor NaN."""
    ones = ((1 << dtype.exponent_bits) - 1) << dtype.mantissa_bits
    answer: npt.NDArray[np.bool_] = (words & words.dtype.type(ones)) != ones
    return answer


def stepped(dtype: DType, base: Words, codes: Codes, steps: Floats) -> Words:
    """Return the words that lie `codes` steps from `base`; where a code is 0, the word of the base unchanged.

    Parameters
    ----------
    dtype : DType
        A type of `STEPPED`.
    base : Words
        Of any shape.
    codes : Codes
        Of the same shape; at most `LARGEST_CODE` in magnitude.
    steps : Floats
        Of the same shape, or one that broadcasts to it.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> base = np.array([1.0, -0.0, -2.0], "<f4").view("<u4")
    >>> stepped(dtype_of("F32"), base, np.array([1, 0, -2], np.int32), np.array([0.5], "<f4")).view("<f4").tolist()
    [1.5, -0.0, -3.0]
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinities of the base; whoever must not have them looks
        values = to_float32(dtype, base) + codes.astype(np.float32) * steps
        words = from_float32(dtype, values)
    return np.where(codes == 0, base, words).astype(base.dtype, copy=False)
