"""The codec for a tensor beside another that foretells its magnitudes (spec-v1, section 6.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.kernels import Sums
from mvc.codecs.parameters import integer_parameter, require_parameters
from mvc.codecs.row_scale import companion_row_bytes
from mvc.codecs.sorted_words import MAX_MANTISSA, decode_sorted, encode_sorted, row_count, unfit
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType

__all__ = ["SortedPlanes"]


@dataclass(frozen=True, slots=True)
class SortedPlanes(Codec):
    """Store the words themselves, in the order of the magnitudes of a companion.

    Adam divides its first moment by the root of the second, so the exponent of the one lies near half that of the
    other. No difference is taken: between the two there is no relation but that of size.

    Parameters
    ----------
    mantissa : int, 0 to 7 and at most the mantissa bits of the dtype
        How many leading mantissa bits of the companion join the sort key. 0 is right but for the last hundredth.
    """

    name: ClassVar[str] = "sorted-planes"
    roles: ClassVar[tuple[str, ...]] = ("companion",)

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
        return (cls(0), cls(1)) if dtype.mantissa_bits else (cls(0),)

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the row bytes, and the planes of `frame` in the order of ``sides[0]``."""
        if refusal := unfit(self.mantissa, spec):
            raise InvalidInputError(refusal)
        rows = _row_bytes(frame, sides[0], spec)
        turned = workspace.array("turned", spec.nbytes)
        planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
        kernels.active.split(frame, planes, spec.dtype.kind == "float")
        kernels.active.join(planes, turned, False)
        stored = encode_sorted(turned, sides[0], rows, self.mantissa, spec)
        if len(stored) > spec.nbytes:  # noise: let the rows at least cost nothing
            stored = encode_sorted(turned, sides[0], np.zeros(len(rows), dtype=np.uint8), self.mantissa, spec)
        return stored

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write the words of `stored` into `out`, in the order of the tensor.

        The kernel that undoes the order takes the words for changes of the companion; what they are is then what lies
        between its result and the companion.
        """
        if refusal := unfit(self.mantissa, spec):
            raise MalformedError(refusal)
        rows, sorted_planes = decode_sorted(stored, spec)
        number, row_words = kernels.number_of(spec.dtype), min(spec.row_words, spec.words)
        moved, turned = workspace.array("moved", spec.nbytes), workspace.array("turned", spec.nbytes)
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        kernels.active.unsort(sorted_planes, sides[0], number, rows, row_words, self.mantissa, moved, scratch)
        kernels.active.measure(moved, sides[0], number, spec.words, turned, np.empty(1, dtype=np.int64))
        planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
        kernels.active.split(turned, planes, False)
        kernels.active.join(planes, out, spec.dtype.kind == "float")


def _row_bytes(frame: Bytes, companion: Bytes, spec: FrameSpec) -> Bytes:
    """Return the row bytes of a frame; zeros for words without an exponent."""
    if spec.dtype.kind != "float":
        return np.zeros(row_count(spec), dtype=np.uint8)
    row_words = min(spec.row_words, spec.words)
    return companion_row_bytes(_magnitudes(frame, spec), _magnitudes(companion, spec), spec.words, row_words)


def _magnitudes(words: Bytes, spec: FrameSpec) -> Sums:
    """Return, for each row, the sum of the exponents plus nearly the same for each word; -1 for a row of zeros."""
    sums = np.empty(row_count(spec), dtype=np.int64)
    zeros, unused = workspace.array("zeros", spec.nbytes), workspace.array("deltas", spec.nbytes)
    zeros[:] = 0
    row_words = min(spec.row_words, spec.words)
    kernels.active.measure(zeros, words, kernels.number_of(spec.dtype), row_words, unused, sums)
    return sums
