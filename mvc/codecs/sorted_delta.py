"""The codec for a tensor near another: its changes, sorted by their expected size (spec-v1, section 6.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.keyed_delta import KeyedDelta
from mvc.codecs.row_scale import row_bytes
from mvc.codecs.sorted_words import decode_sorted, encode_sorted

__all__ = ["SortedDelta"]


@dataclass(frozen=True, slots=True)
class SortedDelta(KeyedDelta):
    """Store the changes in the order of their keys.

    Neighbouring changes are then of one size, and their high bytes become runs.
    """

    name: ClassVar[str] = "sorted-delta"

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the row bytes and the sorted planes of the changes from ``sides[0]`` to `frame`."""
        deltas, sizes = self._deltas(frame, sides[0], spec)
        rows = row_bytes(sizes, spec.words, min(spec.row_words, spec.words))
        stored = encode_sorted(deltas, sides[0], rows, self.mantissa, spec)
        if len(stored) > spec.nbytes:  # noise: let the rows at least cost nothing
            stored = encode_sorted(deltas, sides[0], np.zeros_like(rows), self.mantissa, spec)
        return stored

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` plus the changes of `stored` into `out`."""
        self._check_stored(spec)
        rows, planes = decode_sorted(stored, spec)
        row_words = min(spec.row_words, spec.words)
        number = kernels.number_of(spec.dtype)
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        kernels.active.unsort(planes, sides[0], number, rows, row_words, self.mantissa, out, scratch)
