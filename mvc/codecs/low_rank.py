"""The codec for a tensor that differs from a base by the product of two thin matrices (spec-v1, section 6.12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes, Codec, FrameSpec, Parameters
from mvc.codecs.parameters import bytes_parameter, require_parameters
from mvc.codecs.sorted_delta import SortedDelta
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType
from mvc.types.factors import MOST_RANK, Factored, Signed, moved, product
from mvc.types.steps import LARGEST_STEP, SMALLEST_STEP, STEPPED, Floats, Words, finite

__all__ = ["LowRank"]

_SORTED: Final = 0
_PRODUCT: Final = 1

_AT_ONCE: Final = 1 << 16
"""Words of a frame without whole rows whose product is computed at a time: they take 64 times their room at most."""


@dataclass(frozen=True, slots=True)
class LowRank(Codec):
    """Store two thin matrices, whose product leads from the base to the tensor; frames then hold nothing.

    Parameters
    ----------
    left : bytes
        Signed bytes, shape (R, K): a row for each of the tensor, or one for all.
    right : bytes
        Signed bytes, shape (K, C): a column for each of the tensor, or one for all.
    scales : bytes
        Float32, little-endian, shape (K,), 2**-64 to 2**64. K is 1 to 64.

    Raises
    ------
    InvalidInputError
        If the lengths do not fit, or a scale is out of range.
    """

    name: ClassVar[str] = "low-rank"
    roles: ClassVar[tuple[str, ...]] = ("base",)
    positional: ClassVar[bool] = True

    left: bytes
    right: bytes
    scales: bytes

    def __post_init__(self) -> None:
        rank, rest = divmod(len(self.scales), 4)
        if rest or not 1 <= rank <= MOST_RANK:
            raise InvalidInputError(f"scales of {len(self.scales)} bytes; 1 to {MOST_RANK} of 4 bytes are allowed")
        if not self.left or not self.right or len(self.left) % rank or len(self.right) % rank:
            raise InvalidInputError(f"{len(self.left)} and {len(self.right)} bytes are no matrices of rank {rank}")
        scales = np.frombuffer(self.scales, "<f4")
        if not ((scales >= SMALLEST_STEP) & (scales <= LARGEST_STEP)).all():
            raise InvalidInputError("a scale is below 2**-64, above 2**64, or not a number")

    @classmethod
    def of(cls, made: Factored) -> Self:
        """Return the codec of a product."""
        return cls(made.left.tobytes(), made.right.tobytes(), made.scales.astype("<f4").tobytes())

    @property
    def parameters(self) -> Parameters:
        """``left``, ``right`` and ``scales``."""
        return {"left": self.left, "right": self.right, "scales": self.scales}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        names = ("left", "right", "scales")
        require_parameters(parameters, frozenset(names), cls.name)
        try:
            return cls(*(bytes_parameter(parameters, name) for name in names))
        except InvalidInputError as error:
            raise MalformedError(error.message) from error

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:  # noqa: ARG003
        """Return none: which product was added is known where it was, and not to be tried."""
        return ()

    @property
    def _rank(self) -> int:
        return len(self.scales) // 4

    @property
    def _shape(self) -> tuple[int, int]:
        """Rows and columns that are stated; 1 may stand for all."""
        return len(self.left) // self._rank, len(self.right) // self._rank

    def _fits(self, spec: FrameSpec) -> bool:
        """Return whether there is a row for every one of the frame, and a column for every word of a row."""
        rows, columns = self._shape
        return (rows == 1 or spec.start + spec.words <= rows * spec.row_words) and columns in {1, spec.row_words}

    def _misfit(self, spec: FrameSpec) -> str:
        rows, columns = self._shape
        return (
            f"matrices of {rows} rows and {columns} columns do not suit words {spec.start} to "
            f"{spec.start + spec.words} of a tensor with rows of {spec.row_words}"
        )

    def _product(self, spec: FrameSpec) -> Floats:
        """Return what is added to each word of a frame, or to all of a row or column."""
        left = np.frombuffer(self.left, np.int8).reshape(-1, self._rank).T  # (K, R) or (K, 1)
        right = np.frombuffer(self.right, np.int8).reshape(self._rank, -1)  # (K, C) or (K, 1)
        scales = np.frombuffer(self.scales, "<f4")
        if not spec.start % spec.row_words and not spec.words % spec.row_words:
            first, count = spec.start // spec.row_words, spec.words // spec.row_words
            rows = left[:, first : first + count] if left.shape[1] > 1 else left
            whole = np.broadcast_to(product(rows[:, :, None], right[:, None, :], scales), (count, spec.row_words))
            return whole.reshape(-1)
        total = np.empty(spec.words, np.float32)
        for start in range(0, spec.words, _AT_ONCE):
            places = spec.start + np.arange(start, min(start + _AT_ONCE, spec.words), dtype=np.int64)
            rows, columns = np.divmod(places, spec.row_words)
            total[start : start + _AT_ONCE] = product(_at(left, rows), _at(right, columns), scales)
        return total

    def _moved(self, side: Bytes, spec: FrameSpec) -> Words | None:
        """Return the words of a frame; None if one that moves is not finite, from which processors differ."""
        total = self._product(spec)
        words = moved(spec.dtype, side.view(f"<u{spec.dtype.word_bytes}"), total)
        return words if (finite(spec.dtype, words) | (total == 0)).all() else None

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return a byte if the product leads from ``sides[0]`` to `frame`, else `frame` as `SortedDelta` has it.

        Raises
        ------
        InvalidInputError
            If the matrices are those of a tensor of another shape.
        """
        if not self._fits(spec):
            raise InvalidInputError(self._misfit(spec))
        if spec.dtype.name in STEPPED:
            words = self._moved(sides[0], spec)
            if words is not None and np.array_equal(words, frame.view(words.dtype)):
                return bytes([_PRODUCT])
        return bytes([_SORTED]) + SortedDelta(0).encode(frame, sides, spec)

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]``, moved by the product, into `out`."""
        if not self._fits(spec):
            raise MalformedError(self._misfit(spec))
        form = stored[0] if len(stored) else None
        if form == _SORTED:
            SortedDelta(0).decode(memoryview(stored)[1:], sides, spec, out)
        elif form == _PRODUCT and len(stored) == 1 and spec.dtype.name in STEPPED:
            words = self._moved(sides[0], spec)
            if words is None:
                raise MalformedError("a product leads from or to a value that is not finite")
            out[:] = words.view(np.uint8)
        else:
            raise MalformedError(f"low-rank frame of {spec.dtype.name} in {len(stored)} bytes has form {form}")


def _at(matrices: Signed, places: npt.NDArray[np.integer]) -> Signed:
    """Return the columns at some places, where one may stand for all."""
    return matrices[:, places] if matrices.shape[1] > 1 else matrices
