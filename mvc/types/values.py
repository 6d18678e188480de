"""The values of tensor bytes as float64, and back. Apart from the rest of `mvc.types` because it needs NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.types.dtypes import DType

__all__ = ["REALS", "as_float64", "blocks", "from_float64"]

_NUMPY: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "u1",
    "C64": "<f4",
    "C128": "<f8",
}
REALS: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose elements are real numbers of at least 16 bits: what rounding and `from_float64` work on."""

_BLOCK: Final = 1 << 15
"""Words that are widened to float64 at a time: with a few temporaries they stay inside a second-level cache."""

_FINITE_ONLY: Final = {"F8_E4M3": (7, True), "F8_E4M3FNUZ": (8, False), "F8_E5M2FNUZ": (16, False)}
"""Types without infinities: exponent bias, and whether a pattern of ones is NaN (else only negative zero is)."""


def as_float64(dtype: DType, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the values of a tensor.

    Parameters
    ----------
    dtype : DType
        Element type. A complex number counts as two values.
    data : ndarray, shape (n,), uint8
        Little-endian elements.

    Returns
    -------
    ndarray, float64
        One value a word; 64-bit integers are rounded.

    Raises
    ------
    InvalidInputError
        For packed types, whose elements are not of whole bytes.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> as_float64(dtype_of("BF16"), np.array([0x80, 0x3F, 0x00, 0xC0], np.uint8)).tolist()
    [1.0, -2.0]
    """
    if dtype.name in _NUMPY:
        return np.frombuffer(data, _NUMPY[dtype.name]).astype(np.float64)
    if dtype.name == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype.name == "F8_E8M0":
        return np.where(data == 0xFF, np.nan, np.exp2(data.astype(np.float64) - 127))
    if dtype.kind == "float" and dtype.word_bytes == 1:
        values: npt.NDArray[np.float64] = _table(dtype)[data]
        return values
    raise InvalidInputError(f"values of {dtype.name} cannot be compared: its elements are packed into bytes")


def from_float64(dtype: DType, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return the little-endian elements that have `values`: the way back from `as_float64`.

    Parameters
    ----------
    dtype : DType
        One of `REALS`.
    values : ndarray, shape (n,), float64
        Numbers that `dtype` has. Others become one of the two next to them, or infinite.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> from_float64(dtype_of("BF16"), np.array([1.0, -2.0])).tolist()
    [128, 63, 0, 192]
    """
    if dtype.name == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    if dtype.name not in REALS:
        raise InvalidInputError(f"values of {dtype.name} are not made from other numbers")
    return values.astype(_NUMPY[dtype.name]).view(np.uint8)


def blocks(count: int) -> Iterator[slice]:
    """Yield ranges that cover `count` words and are short enough to be widened to float64."""
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


@cache
def _table(dtype: DType) -> npt.NDArray[np.float64]:
    """Return the value of each of the 256 patterns of an 8-bit float (OCP FP8 1.0; FNUZ: Noune et al. 2022)."""
    bits = np.arange(256)
    exponent = (bits >> dtype.mantissa_bits) & ((1 << dtype.exponent_bits) - 1)
    mantissa = (bits & ((1 << dtype.mantissa_bits) - 1)) / (1 << dtype.mantissa_bits)
    bias, ones_are_nan = _FINITE_ONLY.get(dtype.name, ((1 << (dtype.exponent_bits - 1)) - 1, False))
    subnormal = exponent == 0
    magnitude = np.where(subnormal, mantissa, 1 + mantissa) * np.exp2(np.where(subnormal, 1, exponent) - bias)
    values: npt.NDArray[np.float64] = np.where(bits & 0x80, -magnitude, magnitude)
    if ones_are_nan:
        values[(bits & 0x7F) == 0x7F] = np.nan
    elif dtype.name in _FINITE_ONLY:
        values[0x80] = np.nan
    else:
        top = exponent == (1 << dtype.exponent_bits) - 1
        values[top] = np.where(mantissa[top] == 0, np.copysign(np.inf, values[top]), np.nan)
    return values
