"""Sums of squares that are the same on every machine, whatever the order in which they are added.

NumPy sums floats in an order that depends on the vector units of the processor, so the last digits differ from machine
to machine: enough to move an exponent by one, or the id of a commit that records an error. Integers do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.types import DType
from mvc.types.values import REALS, as_float64, blocks

__all__ = ["Loss", "Squares", "squares", "squares_of"]

_DIGITS: Final = 24
"""Leading bits of a value that are squared: all that fp32 has, and for fp64 a relative error below 2**-23."""

_HALF: Final = np.int64((1 << _DIGITS) - 1)
"""Low half of a square. Sums of 2**29 halves are exact in float64, which is what `bincount` adds up in."""

_LOWEST: Final = 1200
"""A square is counted in units of 4**-1200: fp64 has no value below 2**-1074, and 24 bits of it are kept."""


@dataclass(frozen=True, slots=True)
class Squares:
    """An exact sum of squares, and of how many values; those of the parts of a tensor add up to those of the whole.

    Parameters
    ----------
    total : int
        In units of 4**-1200.
    count : int
        Finite values.
    """

    total: int = 0
    count: int = 0

    def __add__(self, other: Squares) -> Squares:
        return Squares(self.total + other.total, self.count + other.count)

    @property
    def exponent(self) -> int | None:
        """The smallest h with a root mean square of at most 2**h; None if that is 0."""
        if self.total == 0:
            return None
        h = (self.total.bit_length() - self.count.bit_length()) // 2 - _LOWEST - 1
        while self.total > self.count << 2 * (h + _LOWEST):
            h += 1
        return h


@dataclass(frozen=True, slots=True)
class Loss:
    """How far rounded values lie from what they were; those of the parts of a tensor add up to those of the whole.

    Parameters
    ----------
    largest : float
        The largest absolute error.
    errors, values : Squares
        Of the errors, and of the values before rounding; what is not finite is left out.
    """

    largest: float = 0.0
    errors: Squares = field(default_factory=Squares)
    values: Squares = field(default_factory=Squares)

    def __add__(self, other: Loss) -> Loss:
        largest = float(np.maximum(self.largest, other.largest))  # NaN if either is
        return Loss(largest, self.errors + other.errors, self.values + other.values)

    @property
    def relative(self) -> float:
        """The L2 norm of the errors by that of the values; 0 if all values are 0, as the errors are then."""
        return math.sqrt(self.errors.total / self.values.total) if self.values.total else 0.0


def squares(words: npt.NDArray[np.uint8], dtype: DType) -> Squares:
    """Return the squares of some elements; none for dtypes that are not rounded.

    Parameters
    ----------
    words : ndarray, shape (n,), uint8
        Little-endian elements: a tensor, or any part of it.
    dtype : DType
        Element type.
    """
    total = Squares()
    if dtype.name in REALS:
        size = dtype.word_bytes
        for part in blocks(len(words) // size):
            with np.errstate(invalid="ignore"):  # signalling NaN
                total += squares_of(as_float64(dtype, words[part.start * size : part.stop * size]))
    return total


def squares_of(values: npt.NDArray[np.float64]) -> Squares:
    """Return the squares of the finite ones of at most 2**29 values."""
    finite = np.isfinite(values)
    fractions, exponents = np.frexp(np.abs(np.where(finite, values, 0)))
    digits = np.ldexp(fractions, _DIGITS).astype(np.int64)
    square, lowest = digits * digits, int(exponents.min(initial=0))
    places = exponents - lowest
    low = np.bincount(places, weights=square & _HALF)
    high = np.bincount(places, weights=square >> _DIGITS)
    total = 0
    for place in np.flatnonzero(low + high).tolist():
        whole = int(low[place]) + (int(high[place]) << _DIGITS)
        total += whole << 2 * (place + lowest - _DIGITS + _LOWEST)
    return Squares(total, int(np.count_nonzero(finite)))
