"""The codec for rounded floats near another tensor: changes of integers (spec-v1, section 6.9)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.context_delta import ContextDelta
from mvc.codecs.grid_numbers import Numbers, numbers_of
from mvc.codecs.gridded import Gridded, Strays
from mvc.codecs.kernels import IMPLEMENTATION
from mvc.codecs.keyed_delta import KeyedDelta
from mvc.codecs.shrinkage import predicted, shrinkage
from mvc.codecs.sorted_delta import SortedDelta
from mvc.errors import MalformedError
from mvc.types import dtype_of

__all__ = ["GridDelta"]

_CONTEXT: Final = 1
_SORTED: Final = 2

_CODERS: Final[Mapping[int, KeyedDelta]] = {_CONTEXT: ContextDelta(0), _SORTED: SortedDelta(0)}

_TRIED: Final = (_CONTEXT, _SORTED) if IMPLEMENTATION == "native" else (_SORTED,)
"""Modes that a writer compares. Of MiniLM's deltas against the base, sorted ones are 1 % smaller on a grid of 23 bits,
but 4 % larger on one of 15 and 41 % on one of 8. In NumPy the coder of contexts is too slow."""

_FACTOR: Final = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class GridDelta(Gridded):
    """Store how far each number lies from the one that the base foretells.

    An optimizer moves weights by a nearly constant absolute amount, so the changes of integers on one grid are alike
    whatever the weight; how large they are differs from row to row.
    """

    name: ClassVar[str] = "grid-delta"
    roles: ClassVar[tuple[str, ...]] = ("base",)
    modes: ClassVar[tuple[int, ...]] = tuple(_CODERS)

    def _encode_numbers(
        self, numbers: Numbers, strays: Strays, sides: Sequence[Bytes], spec: FrameSpec
    ) -> tuple[int, bytes]:
        base = numbers_of(sides[0], spec.dtype, self.bits)
        factor = shrinkage(numbers, base)
        near = predicted(base, factor)
        numbers[strays.places] = near[strays.places]
        frame, side, numbered = numbers.view(np.uint8), near.view(np.uint8), _numbered(spec)
        coded = {mode: _CODERS[mode].encode(frame, [side], numbered) for mode in _TRIED}
        best = min(coded, key=lambda mode: len(coded[mode]))
        return best, _FACTOR.pack(factor) + coded[best]

    def _decode_numbers(
        self, mode: int, stored: memoryview, sides: Sequence[Bytes], spec: FrameSpec
    ) -> npt.NDArray[np.integer]:
        if len(stored) < _FACTOR.size:
            raise MalformedError(f"grid delta has {len(stored)} bytes; at least {_FACTOR.size} are needed")
        (factor,) = _FACTOR.unpack_from(stored)
        near = predicted(numbers_of(sides[0], spec.dtype, self.bits), factor)
        numbers: Numbers = np.empty(spec.words, dtype=np.int32)
        _CODERS[mode].decode(stored[_FACTOR.size :], [near.view(np.uint8)], _numbered(spec), numbers.view(np.uint8))
        return numbers


def _numbered(spec: FrameSpec) -> FrameSpec:
    """Return the spec of the numbers of a frame."""
    return FrameSpec(dtype_of("I32"), spec.words, spec.row_words)
