"""The codec for a tensor whose elements lie whole steps from a base (spec-v1, section 6.10)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes, Codec, FrameSpec, Parameters
from mvc.codecs.parameters import bytes_parameter, require_parameters
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.sorted_delta import SortedDelta
from mvc.codecs.step_codes import decode_codes, encode_codes
from mvc.codecs.step_columns import pack_columns, unpack_columns
from mvc.codecs.step_foretold import decode_foretold, encode_foretold, worth_foretelling
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import DType
from mvc.types.steps import (
    LARGEST_CODE,
    LARGEST_STEP,
    SMALLEST_STEP,
    STEPPED,
    Codes,
    Columns,
    Floats,
    Words,
    column_factors,
    finite,
    step_of,
    stepped,
    to_float32,
)

__all__ = ["StepDelta"]

_SORTED: Final = 0
_STEPS: Final = 1
_FORETOLD: Final = 2

_HEAD: Final = struct.Struct("<BII")
"""Form, exceptions, length of the coded exceptions."""

_EXCEPTIONS: Final = 16
"""A reader takes at most one exception among so many words; with more, a frame is no tensor of steps."""

_GAP_BYTES: Final = 4


class _Exceptions(NamedTuple):
    """Words that do not lie whole steps from their base: their places in the frame, ascending, and they."""

    places: npt.NDArray[np.int64]
    words: Words


@dataclass(frozen=True, slots=True)
class StepDelta(Codec):
    """Store how many steps each element lies from the base.

    Parameters
    ----------
    rows : bytes
        The step of each row of the tensor, or one for all: float32, little-endian, 2**-64 to 2**64.
    columns : bytes
        The factor of each column, or one for all, as `mvc.types.steps.column_factors` reads it; packed in the envelope.

    Raises
    ------
    InvalidInputError
        If either is empty or a step is out of range.
    """

    name: ClassVar[str] = "step-delta"
    roles: ClassVar[tuple[str, ...]] = ("base",)
    positional: ClassVar[bool] = True

    rows: bytes
    columns: bytes

    def __post_init__(self) -> None:
        if len(self.rows) % 4 or not self.rows or not self.columns:
            raise InvalidInputError(
                f"steps of {len(self.rows)} bytes and factors of {len(self.columns)}: neither may be empty, "
                "and a step has 4 bytes"
            )
        steps = self._steps
        if not ((steps >= SMALLEST_STEP) & (steps <= LARGEST_STEP)).all():
            raise InvalidInputError("a step is below 2**-64, above 2**64, or not a number")

    @classmethod
    def of(cls, rows: Floats, columns: Columns) -> Self:
        """Return the codec of these steps and factors."""
        return cls(rows.astype("<f4").tobytes(), columns.tobytes())

    @property
    def parameters(self) -> Parameters:
        """``rows`` and ``columns``."""
        return {"rows": self.rows, "columns": pack_columns(np.frombuffer(self.columns, np.uint8))}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        require_parameters(parameters, frozenset({"rows", "columns"}), cls.name)
        columns = unpack_columns(bytes_parameter(parameters, "columns"))
        try:
            return cls(bytes_parameter(parameters, "rows"), columns.tobytes())
        except InvalidInputError as error:
            raise MalformedError(error.message) from error

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:  # noqa: ARG003
        """Return none: which steps a tensor is made of is known where it was made, and not to be tried."""
        return ()

    @property
    def _steps(self) -> Floats:
        """The steps of rows."""
        return np.frombuffer(self.rows, "<f4")

    def _fits(self, spec: FrameSpec) -> bool:
        """Return whether there is a step for every row and a factor for every column of the frame."""
        rows, end = len(self.rows) // 4, spec.start + spec.words
        return (rows == 1 or end <= rows * spec.row_words) and len(self.columns) in {1, spec.row_words}

    def _misfit(self, spec: FrameSpec) -> str:
        return (
            f"{len(self.rows) // 4} steps of rows and {len(self.columns)} factors of columns do not suit words "
            f"{spec.start} to {spec.start + spec.words} of a tensor with rows of {spec.row_words}"
        )

    def _of_frame(self, spec: FrameSpec, shape: tuple[int, int]) -> Floats:
        """Return the steps of a frame, of its shape or broadcasting to it."""
        steps, columns = self._steps, np.frombuffer(self.columns, np.uint8)
        if shape[1] == spec.row_words and not spec.start % spec.row_words:
            first = spec.start // spec.row_words
            return step_of(steps[first : first + shape[0]] if len(steps) > 1 else steps, columns)
        rows, places = np.divmod(np.arange(spec.start, spec.start + spec.words), spec.row_words)
        each = steps[rows] if len(steps) > 1 else steps
        product: Floats = each * column_factors(columns[places] if len(columns) > 1 else columns)
        return product[None]

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the codes from ``sides[0]`` to `frame`, and the words that are no whole number of steps away.

        Raises
        ------
        InvalidInputError
            If the parameters are those of a tensor of another shape.
        """
        if not self._fits(spec):
            raise InvalidInputError(self._misfit(spec))
        if spec.dtype.name in STEPPED:
            shape = _shape(spec)
            target, base = (_words(data, spec.dtype).reshape(shape) for data in (frame, sides[0]))
            codes, exceptions = _codes(spec.dtype, target, base, self._of_frame(spec, shape))
            if len(exceptions.places) * _EXCEPTIONS <= spec.words:
                stored = _encode_steps(codes, exceptions)
                if len(stored) < spec.nbytes:
                    return stored
        return bytes([_SORTED]) + SortedDelta(0).encode(frame, sides, spec)

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]``, moved by the steps of `stored`, into `out`."""
        if not self._fits(spec):
            raise MalformedError(self._misfit(spec))
        form = stored[0] if len(stored) else None
        if form == _SORTED:
            SortedDelta(0).decode(memoryview(stored)[1:], sides, spec, out)
        elif form in {_STEPS, _FORETOLD} and spec.dtype.name in STEPPED:
            self._decode_steps(memoryview(stored), sides[0], spec, out)
        else:
            raise MalformedError(f"step delta of {spec.dtype.name} in {len(stored)} bytes has form {form}")

    def _decode_steps(self, stored: memoryview, side: Bytes, spec: FrameSpec, out: Bytes) -> None:
        shape = _shape(spec)
        if stored[0] == _FORETOLD:
            exceptions, codes = _no_exceptions(spec), decode_foretold(stored[1:], shape)
        else:
            exceptions, coded = _decode_exceptions(stored, spec)
            codes = decode_codes(coded, shape)
        base = _words(side, spec.dtype).reshape(shape)
        words = stepped(spec.dtype, base, codes, self._of_frame(spec, shape))
        if not (finite(spec.dtype, words) | (codes == 0)).all():
            raise MalformedError("a step delta leads from or to a value that is not finite")
        out[:] = words.reshape(-1).view(np.uint8)
        _words(out, spec.dtype)[exceptions.places] = exceptions.words


def _words(data: Bytes, dtype: DType) -> Words:
    return data.view(f"<u{dtype.word_bytes}")


def _shape(spec: FrameSpec) -> tuple[int, int]:
    """Return rows and columns of a frame; it is one row if it does not consist of whole ones."""
    if spec.start % spec.row_words or spec.words % spec.row_words:
        return 1, spec.words
    return spec.words // spec.row_words, spec.row_words


def _codes(dtype: DType, target: Words, base: Words, steps: Floats) -> tuple[Codes, _Exceptions]:
    """Return the codes that lead from `base` to `target`, 0 where none does, and what is there."""
    with np.errstate(invalid="ignore", over="ignore"):
        quotients = (to_float32(dtype, target).astype(np.float64) - to_float32(dtype, base)) / steps
    codes: Codes = np.clip(np.rint(np.nan_to_num(quotients)), -LARGEST_CODE, LARGEST_CODE).astype(np.int32)
    codes[(target == base) | ~finite(dtype, target)] = 0
    wrong = np.flatnonzero(stepped(dtype, base, codes, steps) != target)
    each = np.broadcast_to(steps, target.shape).reshape(-1)[wrong]
    flat, sought = codes.reshape(-1), target.reshape(-1)[wrong]
    flat[wrong] = repaired = _repaired(dtype, sought, base.reshape(-1)[wrong], flat[wrong], each)
    return codes, _Exceptions(wrong[repaired == 0], sought[repaired == 0])


def _repaired(dtype: DType, target: Words, base: Words, codes: Codes, steps: Floats) -> Codes:
    """Return for each element the neighbour of its code that leads to `target`; 0 where neither does."""
    repaired = np.zeros_like(codes)
    for change in (-1, 1):
        near = np.clip(codes + change, -LARGEST_CODE, LARGEST_CODE)
        right = (stepped(dtype, base, near, steps) == target) & finite(dtype, target)
        repaired[right] = near[right]
    return repaired


def _encode_steps(codes: Codes, exceptions: _Exceptions) -> bytes:
    """Return the frame, foretold if it can be and pays."""
    if len(exceptions.places) or not worth_foretelling(codes):
        return _encode_exceptions(exceptions) + encode_codes(codes)
    return bytes([_FORETOLD]) + encode_foretold(codes)


def _no_exceptions(spec: FrameSpec) -> _Exceptions:
    """Return none."""
    return _Exceptions(np.empty(0, np.int64), np.empty(0, f"<u{spec.dtype.word_bytes}"))


def _encode_exceptions(exceptions: _Exceptions) -> bytes:
    """Return form, head and exceptions."""
    places, words = exceptions
    if not len(places):
        return _HEAD.pack(_STEPS, 0, 0)
    gaps = np.diff(places, prepend=-1) - 1
    columns = (
        gaps.astype("<u4").view(np.uint8).reshape(len(places), -1),
        words.view(np.uint8).reshape(len(places), -1),
    )
    coded = encode_planes([np.ascontiguousarray(plane) for plane in np.hstack(columns).T])
    return _HEAD.pack(_STEPS, len(places), len(coded)) + coded


def _decode_exceptions(stored: memoryview, spec: FrameSpec) -> tuple[_Exceptions, memoryview]:
    """Return the exceptions, whose places lie in the frame, and what follows them."""
    _, count, size = _HEAD.unpack_from(stored) if len(stored) >= _HEAD.size else (0, spec.words, 0)
    end = _HEAD.size + size
    if count * _EXCEPTIONS > spec.words or end > len(stored) or (count == 0 and size):
        raise MalformedError(f"{count} exceptions among {spec.words} words, in {size} of {len(stored)} bytes")
    if not count:
        return _no_exceptions(spec), stored[end:]
    planes = decode_planes(stored[_HEAD.size : end], _GAP_BYTES + spec.dtype.word_bytes, count)
    table = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=1)
    gaps, words = (np.ascontiguousarray(part) for part in np.split(table, [_GAP_BYTES], axis=1))
    places = np.cumsum(gaps.view("<u4").reshape(-1).astype(np.int64) + 1) - 1
    if places[-1] >= spec.words:
        raise MalformedError(f"an exception is word {places[-1]} of {spec.words}")
    return _Exceptions(places, words.reshape(-1).view(f"<u{spec.dtype.word_bytes}")), stored[end:]
