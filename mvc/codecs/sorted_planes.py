"""The codec for a tensor beside another that foretells its magnitudes (spec-v1, section 6.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.kernels import RowSizes
from mvc.codecs.keyed import Keyed, row_count
from mvc.codecs.row_scale import companion_row_bytes
from mvc.codecs.sorted_words import decode_sorted, encode_sorted
from mvc.types import DType

__all__ = ["SortedPlanes"]


@dataclass(frozen=True, slots=True)
class SortedPlanes(Keyed):
    """Store the words themselves, in the order of the magnitudes of a companion.

    Adam divides its first moment by the root of the second, so the exponent of the one lies near half that of the
    other. No difference is taken: between the two there is no relation but that of size.
    """

    name: ClassVar[str] = "sorted-planes"
    roles: ClassVar[tuple[str, ...]] = ("companion",)

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:
        """Return the codecs worth comparing on samples of a tensor of `dtype`, the likeliest first."""
        return (cls(0), cls(1)) if dtype.mantissa_bits else (cls(0),)

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the row bytes, and the planes of `frame` in the order of ``sides[0]``."""
        self._check_given(spec)
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
        self._check_stored(spec)
        rows, sorted_planes = decode_sorted(stored, spec)
        number, row_words = kernels.number_of(spec.dtype), min(spec.row_words, spec.words)
        moved, turned = workspace.array("moved", spec.nbytes), workspace.array("turned", spec.nbytes)
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        kernels.active.unsort(sorted_planes, sides[0], number, rows, row_words, self.mantissa, moved, scratch)
        kernels.active.measure(moved, sides[0], number, spec.words, 0, turned, np.empty((1, 2), dtype=np.int64))
        planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
        kernels.active.split(turned, planes, False)
        kernels.active.join(planes, out, spec.dtype.kind == "float")


def _row_bytes(frame: Bytes, companion: Bytes, spec: FrameSpec) -> Bytes:
    """Return the row bytes of a frame; zeros for words without an exponent."""
    if spec.dtype.kind != "float":
        return np.zeros(row_count(spec), dtype=np.uint8)
    row_words = min(spec.row_words, spec.words)
    return companion_row_bytes(_magnitudes(frame, spec), _magnitudes(companion, spec), spec.words, row_words)


def _magnitudes(words: Bytes, spec: FrameSpec) -> RowSizes:
    """Return how large the words of each row are, from their exponents: as the sizes of their changes to zero."""
    sizes = np.empty((row_count(spec), 2), dtype=np.int64)
    zeros, unused = workspace.array("zeros", spec.nbytes), workspace.array("deltas", spec.nbytes)
    zeros[:] = 0
    row_words = min(spec.row_words, spec.words)
    number = kernels.number_of(spec.dtype)
    kernels.active.measure(zeros, words, number, row_words, kernels.ROW_BLOCK, unused, sizes)
    return sizes
