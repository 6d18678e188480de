"""What the codecs for changes against a base have in common: one key a word that foretells the size of its change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.kernels import RowSizes
from mvc.codecs.parameters import integer_parameter, require_parameters
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType

__all__ = ["MAX_MANTISSA", "WIDE_MANTISSA", "KeyedDelta", "row_count"]

MAX_MANTISSA: Final = 7
"""Mantissa bits in the key; with more, groups are too small to have a distribution of their own."""

WIDE_MANTISSA: Final = 23
"""Bits, as in fp32: a narrower mantissa is used up by the change itself."""


@dataclass(frozen=True, slots=True)
class KeyedDelta(Codec):
    """Store how far each word lies from the same word of a base.

    An optimizer moves weights by a nearly constant absolute amount, so the size of a change in units of the last place
    follows from the exponent of the base and the scale of the row: the key (spec-v1, section 6.4).

    Parameters
    ----------
    mantissa : int, 0 to 7 and at most the mantissa bits of the dtype
        How many leading mantissa bits of the base join the key. Weight decay in fp32 makes the change a step
        function of them; 0 is best for 16-bit floats and right for everything that is not a float.
    """

    roles: ClassVar[tuple[str, ...]] = ("base",)

    mantissa: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mantissa <= MAX_MANTISSA:
            raise InvalidInputError(f"mantissa is {self.mantissa}; it must be 0 to {MAX_MANTISSA}")

    @property
    def parameters(self) -> Mapping[str, int]:
        """``mantissa``."""
        return {"mantissa": self.mantissa}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        require_parameters(parameters, frozenset({"mantissa"}), cls.name)
        return cls(integer_parameter(parameters, "mantissa", MAX_MANTISSA))

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:
        """Return the codecs worth comparing on samples of a tensor of `dtype`, the likeliest first."""
        if dtype.mantissa_bits >= WIDE_MANTISSA:
            return cls(3), cls(0)
        return (cls(0),)

    def _deltas(self, frame: Bytes, base: Bytes, spec: FrameSpec) -> tuple[Bytes, RowSizes]:
        """Return the zigzag deltas, and for each row how large they are.

        Raises
        ------
        InvalidInputError
            If the mantissa of the key is longer than that of the dtype.
        """
        if self.mantissa > spec.dtype.mantissa_bits:
            raise InvalidInputError(self._refusal(spec))
        sizes = np.empty((row_count(spec), 2), dtype=np.int64)
        deltas = workspace.array("deltas", spec.nbytes)
        number, row_words = kernels.number_of(spec.dtype), min(spec.row_words, spec.words)
        kernels.active.measure(frame, base, number, row_words, deltas, sizes)
        return deltas, sizes

    def _check_stored(self, spec: FrameSpec) -> None:
        """Refuse a blob whose key takes more of the mantissa than there is."""
        if self.mantissa > spec.dtype.mantissa_bits:
            raise MalformedError(self._refusal(spec))

    def _refusal(self, spec: FrameSpec) -> str:
        return f"{self} needs a mantissa of {self.mantissa} bits; {spec.dtype.name} has {spec.dtype.mantissa_bits}"


def row_count(spec: FrameSpec) -> int:
    """Return the number of rows, whole or in part, in a frame."""
    return -(-spec.words // min(spec.row_words, spec.words))
