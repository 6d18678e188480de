"""The codec for a tensor near another: its changes, sorted by their expected size (spec-v1, section 6.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.parameters import integer_parameter, require_parameters
from mvc.codecs.row_scale import row_bytes
from mvc.codecs.sorted_words import MAX_MANTISSA, decode_sorted, encode_sorted, row_count, unfit
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType

__all__ = ["SortedDelta"]

_WIDE_MANTISSA: Final = 23
"""Bits, as in fp32: a narrower mantissa is used up by the change itself."""


@dataclass(frozen=True, slots=True)
class SortedDelta(Codec):
    """Store how far each word lies from the same word of a base.

    An optimizer moves weights by a nearly constant absolute amount, so the size of a change in units of the last place
    follows from the exponent of the base and the scale of the row. Sorted by that prediction, neighbouring changes are
    of one size, and their high bytes become runs.

    Parameters
    ----------
    mantissa : int, 0 to 7 and at most the mantissa bits of the dtype
        How many leading mantissa bits of the base join the sort key. Weight decay in fp32 makes the change a step
        function of them; 0 is best for 16-bit floats and right for everything that is not a float.
    """

    name: ClassVar[str] = "sorted-delta"
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
        if dtype.mantissa_bits >= _WIDE_MANTISSA:
            return cls(3), cls(0)
        return (cls(0),)

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the row bytes and the sorted planes of the changes from ``sides[0]`` to `frame`."""
        if refusal := unfit(self.mantissa, spec):
            raise InvalidInputError(refusal)
        number = kernels.number_of(spec.dtype)
        row_words = min(spec.row_words, spec.words)
        sums = np.empty(row_count(spec), dtype=np.int64)
        deltas = workspace.array("deltas", spec.nbytes)
        kernels.active.measure(frame, sides[0], number, row_words, deltas, sums)
        stored = encode_sorted(deltas, sides[0], row_bytes(sums, spec.words, row_words), self.mantissa, spec)
        if len(stored) > spec.nbytes:  # noise: let the rows at least cost nothing
            stored = encode_sorted(deltas, sides[0], np.zeros(len(sums), dtype=np.uint8), self.mantissa, spec)
        return stored

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` plus the changes of `stored` into `out`."""
        if refusal := unfit(self.mantissa, spec):
            raise MalformedError(refusal)
        rows, planes = decode_sorted(stored, spec)
        row_words = min(spec.row_words, spec.words)
        number = kernels.number_of(spec.dtype)
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        kernels.active.unsort(planes, sides[0], number, rows, row_words, self.mantissa, out, scratch)
