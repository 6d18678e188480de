"""The codec for rounded floats on their own: magnitudes and signs of integers (spec-v1, section 6.8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.grid_numbers import Numbers
from mvc.codecs.gridded import Gridded, Strays
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.errors import MalformedError

__all__ = ["Grid"]

_GRID: Final = 1

_HEAD: Final = struct.Struct("<BI")
"""Planes, and the bytes of all of them coded."""

_MOST_PLANES: Final = 4


@dataclass(frozen=True, slots=True)
class Grid(Gridded):
    """Store a tensor that was rounded to `bits` binary places as integers.

    "Lossless and near-lossless compression for foundation models" (2024), section III-C: magnitudes in byte planes,
    signs apart; here only of what is not zero, and the planes by probabilities.
    """

    name: ClassVar[str] = "grid"
    modes: ClassVar[tuple[int, ...]] = (_GRID,)

    def _encode_numbers(
        self,
        numbers: Numbers,
        strays: Strays,
        sides: Sequence[Bytes],  # noqa: ARG002
        spec: FrameSpec,
    ) -> tuple[int, bytes]:
        numbers[strays.places] = 0
        magnitudes = np.abs(numbers)
        count = max(1, -(-int(magnitudes.max()).bit_length() // 8))
        planes = list(workspace.array("planes", 4 * spec.words).reshape(_MOST_PLANES, spec.words))
        kernels.active.split(magnitudes.view(np.uint8), planes, False)
        coded = encode_planes(planes[:count], min(spec.row_words, spec.words))
        signs = encode_planes([np.packbits(numbers[magnitudes > 0] < 0, bitorder="little")])
        return _GRID, kernels.active.concatenate((_HEAD.pack(count, len(coded)), coded, signs))

    def _decode_numbers(
        self,
        mode: int,  # noqa: ARG002
        stored: memoryview,
        sides: Sequence[Bytes],  # noqa: ARG002
        spec: FrameSpec,
    ) -> npt.NDArray[np.integer]:
        if len(stored) < _HEAD.size:
            raise MalformedError(f"grid has {len(stored)} bytes; at least {_HEAD.size} are needed")
        count, length = _HEAD.unpack_from(stored)
        if not 1 <= count <= _MOST_PLANES or length > len(stored) - _HEAD.size:
            raise MalformedError(f"grid has {count} planes in {length} of {len(stored)} bytes")
        planes = decode_planes(stored[_HEAD.size :][:length], count, spec.words)
        magnitudes = workspace.array("numbers", 4 * spec.words)
        empty = bytes(spec.words if count < _MOST_PLANES else 0)
        kernels.active.join([*planes, *[empty] * (_MOST_PLANES - count)], magnitudes, False)
        return _signed(magnitudes.view(np.int32), stored[_HEAD.size + length :])


def _signed(magnitudes: Numbers, stored: memoryview) -> Numbers:
    """Return the numbers that have `magnitudes` and the coded signs `stored`; changes the former."""
    nonzero = magnitudes != 0
    count = int(np.count_nonzero(nonzero))
    (packed,) = decode_planes(stored, 1, -(-count // 8))
    bits = np.frombuffer(packed, dtype=np.uint8)
    if count % 8 and bits[-1] >> count % 8:
        raise MalformedError("the signs of a grid have bits set that belong to no word")
    negative = np.zeros(len(magnitudes), dtype=np.int32)
    negative[nonzero] = np.unpackbits(bits, count=count, bitorder="little")
    np.negative(negative, out=negative)
    magnitudes ^= negative
    magnitudes -= negative
    return magnitudes
