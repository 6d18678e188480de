"""What the codecs for changes against a base have in common: the changes, and the keys worth trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.kernels import RowSizes
from mvc.codecs.keyed import Keyed, row_count
from mvc.types import DType

__all__ = ["WIDE_MANTISSA", "KeyedDelta"]

WIDE_MANTISSA: Final = 23
"""Bits, as in fp32: a narrower mantissa is used up by the change itself."""


@dataclass(frozen=True, slots=True)
class KeyedDelta(Keyed):
    """Store how far each word lies from the same word of a base.

    An optimizer moves weights by a nearly constant absolute amount, so the size of a change in units of the last place
    follows from the exponent of the base and the scale of the row: the key. Weight decay in fp32 makes the change a
    step function of the leading mantissa bits; without them the key is best for 16-bit floats, and right for everything
    that is not a float.
    """

    roles: ClassVar[tuple[str, ...]] = ("base",)

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:
        """Return the codecs worth comparing on samples of a tensor of `dtype`, the likeliest first."""
        if dtype.mantissa_bits >= WIDE_MANTISSA:
            return cls(3), cls(0)
        return (cls(0),)

    def _deltas(
        self, frame: Bytes, base: Bytes, spec: FrameSpec, measured: int = kernels.ROW_BLOCK
    ) -> tuple[Bytes, RowSizes]:
        """Return the zigzag deltas, and for each row how large they are: the first `measured` of every `ROW_BLOCK`.

        Raises
        ------
        InvalidInputError
            If the mantissa of the key is longer than that of the dtype.
        """
        self._check_given(spec)
        sizes = np.empty((row_count(spec), 2), dtype=np.int64)
        deltas = workspace.array("deltas", spec.nbytes)
        number, row_words = kernels.number_of(spec.dtype), min(spec.row_words, spec.words)
        kernels.active.measure(frame, base, number, row_words, measured, deltas, sizes)
        return deltas, sizes
