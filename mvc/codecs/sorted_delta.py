"""The codec for a tensor near another: its changes, sorted by their expected size (spec-v1, section 6.4)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.keyed_delta import KeyedDelta, row_count
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.row_scale import row_bytes
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

__all__ = ["SortedDelta"]

_LENGTH: Final = struct.Struct("<I")


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
        stored = self._sort(deltas, sides[0], rows, spec)
        if len(stored) > spec.nbytes:  # noise: let the rows at least cost nothing
            stored = self._sort(deltas, sides[0], np.zeros_like(rows), spec)
        return stored

    def _sort(self, deltas: Bytes, base: Bytes, rows: Bytes, spec: FrameSpec) -> bytes:
        """Return the frame for a choice of row bytes."""
        number = kernels.number_of(spec.dtype)
        planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        row_words = min(spec.row_words, spec.words)
        kernels.active.sort(deltas, base, number, rows, row_words, self.mantissa, planes, scratch)
        scales = encode_planes([rows], Effort.STEADY)
        return b"".join((_LENGTH.pack(len(scales)), scales, encode_planes(planes, Effort.DRIFTING)))

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` plus the changes of `stored` into `out`."""
        self._check_stored(spec)
        scales, body = _halves(memoryview(stored))
        (rows,) = decode_planes(scales, 1, row_count(spec))
        planes = decode_planes(body, spec.dtype.word_bytes, spec.words)
        row_words = min(spec.row_words, spec.words)
        number = kernels.number_of(spec.dtype)
        scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
        kernels.active.unsort(planes, sides[0], number, rows, row_words, self.mantissa, out, scratch)


def _halves(stored: memoryview) -> tuple[memoryview, memoryview]:
    """Return the coded row bytes and the coded planes of a frame."""
    if len(stored) < _LENGTH.size:
        raise MalformedError(f"sorted delta has {len(stored)} bytes; at least {_LENGTH.size} are needed")
    (length,) = _LENGTH.unpack_from(stored)
    end = _LENGTH.size + length
    if end > len(stored):
        raise MalformedError(f"row bytes end at {end}; the sorted delta has {len(stored)} bytes")
    return stored[_LENGTH.size : end], stored[end:]
