"""The codec for a tensor that differs from another in few words: where they are, and by how much (spec-v1, 6.7)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.kernels import Positions
from mvc.codecs.parameters import require_parameters
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.codecs.sorted_delta import SortedDelta
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError
from mvc.types import DType

__all__ = ["SparseDelta"]

_EQUAL: Final = 0
_NEAR: Final = 1
_FAR: Final = 2
_SORTED: Final = 3
_RAW: Final = 4

_HEAD: Final = struct.Struct("<III")
"""Changed words, gap bytes, length of the coded gap bytes."""

_SPARSE: Final = 8
"""A frame is sparse if at most one word of so many changed; above that sorting them all is as small."""

_LEAST_SHARE: Final = 4
"""A reader takes at most one changed word of so many."""

_SAMPLED_WORDS: Final = 1 << 17
"""Words; the planner's samples are no longer, and neither are the tensors that it tries as a whole."""

_SKIP: Final = 255
"""The gap byte that goes on: so many units without a change."""


@dataclass(frozen=True, slots=True)
class SparseDelta(Codec):
    """Store the words that differ from a base, and nothing of the others.

    A step of reinforcement learning changes about one bf16 weight of a hundred, most of them by one unit in the last
    place. A frame costs what its changes cost; the rest is compared, or copied, at the speed of memory.
    """

    name: ClassVar[str] = "sparse-delta"
    roles: ClassVar[tuple[str, ...]] = ("base",)

    @property
    def parameters(self) -> Mapping[str, int]:
        """None."""
        return {}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec; `parameters` must be empty."""
        require_parameters(parameters, frozenset(), cls.name)
        return cls()

    @classmethod
    def candidates(cls, dtype: DType) -> tuple[Self, ...]:  # noqa: ARG003
        """Return the codecs worth comparing on samples of a tensor of `dtype`."""
        return (cls(),)

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the changes from ``sides[0]`` to `frame`; all of its words if most changed."""
        most = spec.words // _SPARSE
        positions = workspace.array("positions", 4 * most).view(np.uint32)
        deltas = workspace.array("deltas", most * spec.dtype.word_bytes)
        count = kernels.active.changes(frame, sides[0], kernels.number_of(spec.dtype), positions, deltas)
        if count == 0:
            return bytes([_EQUAL])
        if count > 0:
            return _encode_changes(positions[:count], deltas[: count * spec.dtype.word_bytes], spec.dtype)
        if spec.words > _SAMPLED_WORDS:
            return bytes([_SORTED]) + SortedDelta(0).encode(frame, sides, spec)
        return bytes([_RAW]) + frame.tobytes()

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` with the changes of `stored` into `out`."""
        mode, body = (stored[0], memoryview(stored)[1:]) if len(stored) else (None, memoryview(b""))
        if mode == _EQUAL and not body:
            out[:] = sides[0]
        elif mode in {_NEAR, _FAR}:
            positions, deltas = _decode_changes(body, spec, far=mode == _FAR)
            kernels.active.patch(sides[0], kernels.number_of(spec.dtype), positions, deltas, out)
        elif mode == _SORTED:
            SortedDelta(0).decode(body, sides, spec, out)
        elif mode == _RAW and len(body) == spec.nbytes:
            out[:] = body
        else:
            raise MalformedError(f"sparse delta of {spec.nbytes} bytes has mode {mode} and {len(body)} bytes behind it")


def _encode_changes(positions: Positions, deltas: Bytes, dtype: DType) -> bytes:
    """Return a frame of mode near or far."""
    count = len(positions)
    gaps = np.diff(positions, prepend=np.uint32(0))
    gaps[1:] -= 1
    far = count + int((gaps // _SKIP).sum()) > 2 * count
    units = _gap_bytes(gaps >> 8 if far else gaps)
    planes = list(workspace.array("planes", len(deltas)).reshape(dtype.word_bytes, count))
    kernels.active.split(deltas, planes, False)
    lows = [gaps.astype(np.uint8)] if far else []
    coded = encode_planes([units], Effort.STEADY)
    head = _HEAD.pack(count, len(units), len(coded))
    return b"".join((bytes([_FAR if far else _NEAR]), head, coded, encode_planes([*lows, *planes], Effort.STEADY)))


def _gap_bytes(units: npt.NDArray[np.uint32]) -> Bytes:
    """Return each number as so many times 255 and a smaller byte."""
    skips = units // _SKIP
    ends = np.cumsum(skips + 1) - 1
    result = np.full(int(ends[-1]) + 1, _SKIP, dtype=np.uint8)
    result[ends] = units - skips * _SKIP
    return result


def _decode_changes(body: memoryview, spec: FrameSpec, *, far: bool) -> tuple[Positions, Bytes]:
    """Return where `body` changes a frame, and the deltas; every position lies in the frame."""
    if len(body) < _HEAD.size:
        raise MalformedError(f"changes have {len(body)} bytes; at least {_HEAD.size} are needed")
    count, size, length = _HEAD.unpack_from(body)
    end = _HEAD.size + length
    if not 1 <= count <= spec.words // _LEAST_SHARE or not count <= size <= count + spec.words // _SKIP:
        raise MalformedError(f"{count} changes with {size} gap bytes in a frame of {spec.words} words")
    if end > len(body):
        raise MalformedError(f"gap bytes end at {end}; the changes have {len(body)} bytes")
    (units,) = decode_planes(body[_HEAD.size : end], 1, size)
    planes = decode_planes(body[end:], far + spec.dtype.word_bytes, count)
    lows = np.frombuffer(planes.pop(0), dtype=np.uint8) if far else None
    positions = _positions(np.frombuffer(units, dtype=np.uint8), lows, count, spec.words)
    deltas = workspace.array("deltas", count * spec.dtype.word_bytes)
    kernels.active.join(planes, deltas, False)
    return positions, deltas


def _positions(units: Bytes, lows: Bytes | None, count: int, words: int) -> Positions:
    """Return the indices of `count` changed words, all of them below `words`.

    Raises
    ------
    MalformedError
        If the gaps are not those of `count` changes, or reach beyond the frame.
    """
    last = units != _SKIP
    total = count + int(units.sum(dtype=np.int64)) * (1 if lows is None else 256)
    total += 0 if lows is None else int(lows.sum(dtype=np.int64))
    if np.count_nonzero(last) != count or not last[-1] or total > words:
        raise MalformedError(f"gaps of {count} changes reach to word {total} of {words}")
    gaps = np.cumsum(units, dtype=np.uint32)[last]
    if lows is not None:
        gaps = (gaps << 8) + np.cumsum(lows, dtype=np.uint32)
    gaps += np.arange(count, dtype=np.uint32)
    return gaps
