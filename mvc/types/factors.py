"""Tensors that differ from a base by a product of thin matrices: the one definition of them (spec-v1, section 6.12).

Apart from the rest of `mvc.types` because it needs NumPy. Sums and products of float32 in a fixed order that are
rounded one by one, so every machine computes the same bits; no matrix product of a library would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.types.dtypes import DType
from mvc.types.steps import LARGEST_STEP, SMALLEST_STEP, Floats, Words, from_float32, to_float32

__all__ = ["MOST_RANK", "Factored", "Signed", "factored", "moved", "product"]

Signed = npt.NDArray[np.int8]

MOST_RANK: Final = 64
"""Columns of the thin matrices: beyond, they are no longer thin beside a matrix of 512."""

_LARGEST: Final = 127
"""Magnitude of an element of a thin matrix, which is a signed byte; -128 would have no opposite."""


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """The product of two thin matrices: ``sum over k of left[i, k] * scales[k] * right[k, j]``.

    Parameters
    ----------
    left : ndarray of int8, shape (R, K)
        One row for each of the tensor.
    right : ndarray of int8, shape (K, C)
        One column for each of the tensor.
    scales : Floats, shape (K,)
        From 2**-64 to 2**64.
    """

    left: Signed
    right: Signed
    scales: Floats

    def applied(self, dtype: DType, base: Words) -> Words:
        """Return the words of a base, shape (R, C), to which the product was added; see `moved`."""
        return moved(dtype, base, product(self.left.T[:, :, None], self.right[:, None, :], self.scales))


def factored(left: Floats, right: Floats) -> Factored:
    """Return two thin matrices rounded to signed bytes, so that the largest of each column, or row, is 127.

    Parameters
    ----------
    left, right : Floats, shapes (R, K) and (K, C)
        Finite.

    Examples
    --------
    >>> made = factored(np.array([[1.0], [-0.5]], "<f4"), np.array([[254.0, 0.0]], "<f4"))
    >>> made.left.tolist(), made.right.tolist(), made.scales.tolist()
    ([[127], [-64]], [[127, 0]], [0.015748031437397003])
    """
    tops = [np.abs(left).max(axis=0, initial=0.0), np.abs(right).max(axis=1, initial=0.0)]
    scales = (tops[0].astype(np.float64) * tops[1]) / _LARGEST**2
    used = scales >= SMALLEST_STEP
    units = [np.where(used, top, 1.0) / _LARGEST for top in tops]
    left_codes = np.where(used, np.rint(left / units[0]), 0)
    right_codes = np.where(used[:, None], np.rint(right / units[1][:, None]), 0)
    bounded = np.where(used, np.minimum(scales, LARGEST_STEP), 1.0)
    return Factored(left_codes.astype(np.int8), right_codes.astype(np.int8), bounded.astype("<f4"))


def product(left: Signed, right: Signed, scales: Floats) -> Floats:
    """Return what two thin matrices come to, shape S.

    Parameters
    ----------
    left, right : ndarray of int8, shapes (K, ...)
        For each k what broadcasts to S: of a whole matrix (K, R, 1) and (K, 1, C).
    scales : Floats, shape (K,)
        k is summed from 0 upwards.
    """
    total = np.zeros(np.broadcast_shapes(left.shape[1:], right.shape[1:]), np.float32)
    for column, row, scale in zip(left, right, scales, strict=True):
        total += (column.astype(np.float32) * scale) * row.astype(np.float32)
    return total


def moved(dtype: DType, base: Words, total: Floats) -> Words:
    """Return the words of a base, of a type of `STEPPED`, to which numbers were added; where one is 0, the same word.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> base = np.array([1.0, -0.0], "<f4").view("<u4")
    >>> moved(dtype_of("F32"), base, np.array([2.0, 0.0], "<f4")).view("<f4").tolist()
    [3.0, -0.0]
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinities of the base; whoever must not have them looks
        words = from_float32(dtype, to_float32(dtype, base) + total)
    return np.where(total == 0, base, words).astype(base.dtype, copy=False)
