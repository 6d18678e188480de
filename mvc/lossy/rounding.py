"""Rounding the elements of a tensor: to a grid, or to some bits of the mantissa. Elementwise, so any slice will do.

Source: "Lossless and Near-Lossless Compression for Foundation Models" (2024), section III-C, which casts
``theta * 2**b`` to an integer.

**Rounding to multiples of g = 2**-B is exact but for the rounding itself.** For a finite w let M be the power of two
with M / 2 <= abs(w) < M (the smallest normal value if w is subnormal), and u the distance of the values of the dtype
below M. If u >= g, w is a multiple of u, hence of g, and stays as it is. If u < g <= M, M is a multiple of g, so the
nearest multiple of g is at most M in magnitude; it is a multiple of u as well, and all of these up to M are values of
the dtype (but M itself, if it is too large to be finite: then w stays as it is). If g > M, then g >= 2 M > 2 abs(w),
and the result is 0. So casting the result back to the dtype costs nothing, neither to BF16 nor to F16:
abs(w - w') <= 2**-(B+1). In float64 the product with 2**B is exact, or overflows, where w is a multiple of g, or is
below 1/2 anyway; so nothing is rounded twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.squares import Loss, squares_of
from mvc.types import DType
from mvc.types.limits import LEAST_GRID_BITS, MOST_GRID_BITS
from mvc.types.values import REALS, as_float64, blocks, from_float64

__all__ = ["FITTED_BITS", "Rounded", "absolute", "mantissa", "measured"]

FITTED_BITS: Final = 10
"""Bits of the mantissa that weights keep which were fitted to texts, those of fp16: the others are noise of the fit,
and all that they would do is make the commit larger."""

Words = npt.NDArray[np.uint8]
"""Shape (bytes,): little-endian elements."""


class Rounded(NamedTuple):
    """What rounding made of some elements.

    Parameters
    ----------
    words : ndarray, shape (n,), uint8
        The new elements, of the same dtype.
    loss : Loss
        How far they are from the old ones.
    """

    words: Words
    loss: Loss


def absolute(words: Words, dtype: DType, bits: int) -> Rounded:
    """Round to the nearest multiple of ``2**-bits``, of two the one with an even multiplier.

    No value moves by more than ``2**-(bits+1)``, and rounding twice is rounding once. Every zero becomes +0, also -0:
    a zero has no sign worth storing. NaN and infinities keep their bits. So do values that would round to beyond the
    largest of the dtype.

    Parameters
    ----------
    words : ndarray, shape (n,), uint8
        Elements of a tensor, or of any part of it. Other dtypes than `REALS` are returned as they are.
    dtype : DType
        Element type.
    bits : int, -128 to 127
        B.

    Raises
    ------
    InvalidInputError
        If `bits` is out of range.
    """
    if not LEAST_GRID_BITS <= bits <= MOST_GRID_BITS:
        raise InvalidInputError(f"bits is {bits}; it must be {LEAST_GRID_BITS} to {MOST_GRID_BITS}")
    if dtype.name not in REALS:
        return Rounded(words, Loss())
    out, loss, size, largest = words.copy(), Loss(), dtype.word_bytes, _largest(dtype)
    word = np.dtype(f"<u{size}")
    for part in blocks(len(words) // size):
        place = slice(part.start * size, part.stop * size)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            before = as_float64(dtype, words[place])
            after = (np.rint(before * 2.0**bits) + 0.0) * 2.0**-bits  # -0.0 + 0.0 is 0.0
            fits = np.abs(after) <= largest  # False for NaN
            after[~fits] = before[~fits]
            np.copyto(out[place].view(word), from_float64(dtype, after).view(word), where=fits)
        loss += _loss(before, after)
    return Rounded(out, loss)


def mantissa(words: Words, dtype: DType, keep: int) -> Rounded:
    """Round mantissas to their `keep` leading bits, of two nearest values to the one with an even last bit.

    No value moves by more than ``2**-(keep+1)`` of it, subnormals by no more than that share of the smallest normal
    value. Everything else is as with `absolute`, but that -0 stays.

    Raises
    ------
    InvalidInputError
        If `keep` is negative.
    """
    if keep < 0:
        raise InvalidInputError(f"{keep} bits of a mantissa cannot be kept")
    drop = dtype.mantissa_bits - keep
    if dtype.name not in REALS:
        return Rounded(words, Loss())
    out, size = words.copy(), dtype.word_bytes
    if drop > 0:
        for part in blocks(len(words) // size):
            place = slice(part.start * size, part.stop * size)
            _cut_mantissas(out[place].view(f"<u{size}"), dtype, drop)
    return Rounded(out, measured(words, out, dtype))


def _cut_mantissas(words: npt.NDArray[np.unsignedinteger], dtype: DType, drop: int) -> None:
    """Round the last `drop` bits away, in place: exponent and mantissa of a float count as one integer."""
    top, infinity = 1 << (8 * dtype.word_bytes - 1), ((1 << dtype.exponent_bits) - 1) << dtype.mantissa_bits
    kind = words.dtype.type
    magnitudes = words & kind(top - 1)
    even = magnitudes >> kind(drop) & kind(1)
    nearest = (magnitudes + (kind((1 << (drop - 1)) - 1) + even)) & kind(top - (1 << drop))
    np.copyto(words, (words & kind(top)) | nearest, where=(magnitudes < infinity) & (nearest < infinity))


def _largest(dtype: DType) -> float:
    """Return the largest finite value."""
    bits = (((1 << dtype.exponent_bits) - 1) << dtype.mantissa_bits) - 1
    return float(as_float64(dtype, np.frombuffer(bits.to_bytes(dtype.word_bytes, "little"), dtype=np.uint8))[0])


def measured(words: Words, others: Words, dtype: DType) -> Loss:
    """Return how far some elements lie from others; both shape (n,), uint8, of a type of `REALS`."""
    loss, size = Loss(), dtype.word_bytes
    for part in blocks(len(words) // size):
        place = slice(part.start * size, part.stop * size)
        with np.errstate(invalid="ignore"):
            loss += _loss(as_float64(dtype, words[place]), as_float64(dtype, others[place]))
    return loss


def _loss(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Loss:
    """Return how far `after` lies from `before`."""
    with np.errstate(invalid="ignore"):  # infinities
        errors = np.where(np.isfinite(before), before - after, 0.0)
    return Loss(float(np.abs(errors).max(initial=0.0)), squares_of(errors), squares_of(before))
