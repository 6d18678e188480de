"""What the codecs for tensors on a grid have in common: B, the way out, and words that are not on it."""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.grid_numbers import Numbers, fill_words, numbers_of
from mvc.codecs.parameters import integer_parameter, require_parameters
from mvc.codecs.planes import Planes
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType
from mvc.types.limits import LEAST_GRID_BITS, MOST_GRID_BITS
from mvc.types.values import REALS

__all__ = ["Gridded", "Strays"]

_PLANES: Final = 0

_SHARE: Final = 64
"""At most one word of so many may be stored as it is, which then takes up to 12 bytes: more are no grid."""

_COUNT: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Strays:
    """Words of a frame that are stored as they are.

    Parameters
    ----------
    places : array of uint32, shape (K,)
        Their indices, ascending.
    words : Bytes, shape (K * bytes of a word,)
        What they are.
    """

    places: npt.NDArray[np.uint32]
    words: Bytes

    def stored(self) -> bytes:
        """Return count, indices and words."""
        return _COUNT.pack(len(self.places)) + self.places.tobytes() + self.words.tobytes()

    def put(self, dtype: DType, out: Bytes) -> None:
        """Write the words to their places in a frame."""
        word = np.dtype(f"<u{dtype.word_bytes}")
        out.view(word)[self.places] = self.words.view(word)


@dataclass(frozen=True, slots=True)
class Gridded(Codec):
    """A codec for floats that are multiples of 2**-bits; it takes any others too, as `planes` would.

    Parameters
    ----------
    bits : int, -128 to 127
        B, the binary places of the grid. The envelope states B + 128.
    """

    bits: int

    modes: ClassVar[tuple[int, ...]]
    """The modes of a frame that hold numbers."""

    def __post_init__(self) -> None:
        if not LEAST_GRID_BITS <= self.bits <= MOST_GRID_BITS:
            raise InvalidInputError(f"bits is {self.bits}; it must be {LEAST_GRID_BITS} to {MOST_GRID_BITS}")

    @property
    def parameters(self) -> Mapping[str, int]:
        """``bits``, B + 128."""
        return {"bits": self.bits - LEAST_GRID_BITS}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        require_parameters(parameters, frozenset({"bits"}), cls.name)
        return cls(integer_parameter(parameters, "bits", MOST_GRID_BITS - LEAST_GRID_BITS) + LEAST_GRID_BITS)

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:  # noqa: ARG003
        """Return none: which grid a tensor is on is known where it was rounded, and not to be tried."""
        return ()

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the coded numbers of `frame`, or its coded planes if too few words are on the grid."""
        if spec.dtype.name in REALS:
            numbers = numbers_of(frame, spec.dtype, self.bits)
            strays = self._strays(frame, numbers, spec)
            if len(strays.places) <= spec.words // _SHARE:
                mode, coded = self._encode_numbers(numbers, strays, sides, spec)
                stored = b"".join((bytes([mode]), strays.stored(), coded))
                if len(stored) < spec.nbytes:
                    return stored
        return bytes([_PLANES]) + Planes().encode(frame, (), spec)

    def _strays(self, frame: Bytes, numbers: Numbers, spec: FrameSpec) -> Strays:
        """Return the words that are not the words of their numbers."""
        word = np.dtype(f"<u{spec.dtype.word_bytes}")
        again = np.empty_like(frame)
        fill_words(numbers, spec.dtype, self.bits, again)
        places = np.flatnonzero(again.view(word) != frame.view(word)).astype("<u4")
        return Strays(places, frame.view(word)[places].view(np.uint8))

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write the words of the numbers that `stored` holds, or of its planes, into `out`."""
        view = memoryview(stored)
        mode = view[0] if view else None
        if mode == _PLANES:
            Planes().decode(view[1:], (), spec, out)
        elif mode in self.modes and spec.dtype.name in REALS:
            strays, rest = _cut_strays(view[1:], spec)
            fill_words(self._decode_numbers(mode, rest, sides, spec), spec.dtype, self.bits, out)
            strays.put(spec.dtype, out)
        else:
            raise MalformedError(f"{self.name} frame of {spec.dtype.name} has mode {mode} and {len(view)} bytes")

    @abstractmethod
    def _encode_numbers(
        self, numbers: Numbers, strays: Strays, sides: Sequence[Bytes], spec: FrameSpec
    ) -> tuple[int, bytes]:
        """Return mode and what follows the strays; `numbers` may be changed, and those of strays are free."""

    @abstractmethod
    def _decode_numbers(
        self, mode: int, stored: memoryview, sides: Sequence[Bytes], spec: FrameSpec
    ) -> npt.NDArray[np.integer]:
        """Return the numbers that follow the strays."""


def _cut_strays(stored: memoryview, spec: FrameSpec) -> tuple[Strays, memoryview]:
    """Return the words that are stored as they are, and what follows them."""
    count = _COUNT.unpack_from(stored)[0] if len(stored) >= _COUNT.size else -1
    if not 0 <= count <= spec.words // _SHARE:
        raise MalformedError(f"grid of {spec.words} words has {count} words beside it")
    places_end = _COUNT.size + 4 * count
    end = places_end + spec.dtype.word_bytes * count
    if end > len(stored):
        raise MalformedError(f"words beside a grid end at {end}; there are {len(stored)} bytes")
    places = np.frombuffer(stored[_COUNT.size : places_end], dtype="<u4").copy()  # what was checked must not change
    if count and (int(places[-1]) >= spec.words or not (places[1:] > places[:-1]).all()):
        raise MalformedError("the indices of words beside a grid do not ascend inside the frame")
    return Strays(places, np.frombuffer(stored[places_end:end], dtype=np.uint8).copy()), stored[end:]
