"""The method ``precision``: how a tensor is to be rounded, as a setting that people write and commits record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.rounding import Rounded, absolute, mantissa
from mvc.lossy.squares import Loss, Squares
from mvc.types import DType
from mvc.types.limits import LEAST_GRID_BITS, MOST_GRID_BITS
from mvc.types.values import REALS

__all__ = ["Precision", "grid_of", "rounded"]

_REFERENCE: Final = -5
"""Exponent of the root mean square whose tensors keep just `bits` places with `relative`. Weights of transformers begin
at 0.02, between 2**-6 and 2**-5, so the same number means about the same with and without it: most of MiniLM's trained
ones keep one or two places less."""

_MOST_MANTISSA: Final = 52
"""Bits, as in fp64."""

_METHOD: Final = "precision:"

_TEXT: Final = re.compile(r"(?P<bits>-?[0-9]{1,3})(?P<relative>:rel)?|mantissa=(?P<mantissa>[0-9]{1,2})")


@dataclass(frozen=True, slots=True)
class Precision:
    """How to round; either `bits` or `mantissa` is given.

    Parameters
    ----------
    bits : int, -128 to 127, optional
        Binary places behind the point that are kept.
    relative : bool
        Whether every tensor keeps as many more places as it is smaller, so that all get the same relative noise.
    mantissa : int, 0 to 52, optional
        Bits of the mantissa that are kept, for tensors whose values span many powers of two.

    Raises
    ------
    InvalidInputError
        If a number is out of range, or the parts do not go together.

    Examples
    --------
    >>> Precision.parse("23:rel")
    Precision(bits=23, relative=True, mantissa=None)
    >>> str(Precision(mantissa=7))
    'precision:mantissa=7'
    """

    bits: int | None = None
    relative: bool = False
    mantissa: int | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.mantissa is None) or (self.relative and self.bits is None):
            raise InvalidInputError("precision is either bits, which may be relative, or bits of the mantissa")
        if self.bits is not None and not LEAST_GRID_BITS <= self.bits <= MOST_GRID_BITS:
            raise InvalidInputError(f"precision is {self.bits} bits; it must be {LEAST_GRID_BITS} to {MOST_GRID_BITS}")
        if self.mantissa is not None and not 0 <= self.mantissa <= _MOST_MANTISSA:
            raise InvalidInputError(f"precision keeps {self.mantissa} bits of the mantissa; it must be 0 to 52")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Return what `text`, which follows ``precision:``, says: ``23``, ``23:rel`` or ``mantissa=7``.

        Raises
        ------
        InvalidInputError
            If it is of another form, or a number is out of range.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise InvalidInputError(
                f"{text[:40]!r} is not a precision", hint="write precision:23, precision:23:rel or precision:mantissa=7"
            )
        if found["mantissa"] is not None:
            return cls(mantissa=int(found["mantissa"]))
        return cls(bits=int(found["bits"]), relative=found["relative"] is not None)

    @classmethod
    def of(cls, text: str) -> Precision:
        """Return what ``str`` has made `text` of.

        Raises
        ------
        InvalidInputError
            If it does not begin with ``precision:``, and as for `parse`.
        """
        if not text.startswith(_METHOD):
            raise InvalidInputError(
                f"{text[:40]!r} is not a setting of the method precision", hint="write precision:23"
            )
        return cls.parse(text.removeprefix(_METHOD))

    @property
    def finer(self) -> Precision | None:
        """The same with two bits more; None if there are no more."""
        if self.mantissa is not None:
            return (
                Precision(mantissa=min(self.mantissa + 2, _MOST_MANTISSA)) if self.mantissa < _MOST_MANTISSA else None
            )
        assert self.bits is not None, "one of both is given"
        if self.bits == MOST_GRID_BITS:
            return None
        return Precision(min(self.bits + 2, MOST_GRID_BITS), self.relative)

    def __str__(self) -> str:
        if self.mantissa is not None:
            return f"{_METHOD}mantissa={self.mantissa}"
        return f"{_METHOD}{self.bits}{':rel' if self.relative else ''}"


def grid_of(precision: Precision, dtype: DType, squares: Squares) -> int | None:
    """Return B, where a tensor is to be rounded to multiples of ``2**-B``; None if it is not.

    With `Precision.relative`, B grows by one for each power of two that the root mean square lies below 2**-5. It is
    made of exact integers, so it is the same on every machine.

    Parameters
    ----------
    precision : Precision
        The setting.
    dtype : DType
        Element type of the tensor.
    squares : Squares
        Those of the whole tensor (`mvc.lossy.squares`); any if the setting is not relative.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> one = Squares(1 << 2400, 1)  # of the value 1
    >>> grid_of(Precision(23, relative=True), dtype_of("F32"), one)
    18
    """
    if precision.bits is None or dtype.name not in REALS:
        return None
    exponent = squares.exponent if precision.relative else None
    if exponent is None:
        return precision.bits
    return min(max(precision.bits - (exponent - _REFERENCE), LEAST_GRID_BITS), MOST_GRID_BITS)


def rounded(precision: Precision, words: npt.NDArray[np.uint8], dtype: DType, grid: int | None) -> Rounded:
    """Return some elements of a tensor rounded as `precision` says, to the grid that `grid_of` gave for the tensor."""
    if precision.mantissa is not None:
        return mantissa(words, dtype, precision.mantissa)
    return Rounded(words, Loss()) if grid is None else absolute(words, dtype, grid)
