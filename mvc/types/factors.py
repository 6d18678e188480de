"""Tensors that differ from a base by a product of two thin matrices: the one definition of their elements (6.12).

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

__all__ = ["MOST_RANK", "Factored", "factored", "moved"]

MOST_RANK: Final = 64
"""Columns of the thin matrices: beyond, they are no longer thin beside a matrix of 512."""

_LARGEST: Final = 127
"""Magnitude of an element of a thin matrix, which is a signed byte; -128 would have no opposite."""

Signed = npt.NDArray[np.int8]


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


def moved(dtype: DType, base: Words, made: Factored) -> Words:
    """Return the words of a base to which a product was added; where that is 0, the word of the base unchanged.

    Parameters
    ----------
    dtype : DType
        A type of `mvc.types.steps.STEPPED`.
    base : Words, shape (R, C)
        The base.
    made : Factored
        The product; k is summed from 0 upwards.
    """
    total = np.zeros(base.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities of the base; whoever must not have them looks
        for k, scale in enumerate(made.scales):
            column = made.left[:, k].astype(np.float32) * scale  # (R,)
            total += column[:, None] * made.right[k].astype(np.float32)  # (R, C)
        words = from_float32(dtype, to_float32(dtype, base) + total)
    return np.where(total == 0, base, words).astype(base.dtype, copy=False)
