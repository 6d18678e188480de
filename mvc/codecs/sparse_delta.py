"""The codec for a tensor that differs from another in few words: where they are, and by how much (spec-v1, 6.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.changes import Changes, decode_changes, encode_changes
from mvc.codecs.plain import Plain
from mvc.codecs.sorted_delta import SortedDelta
from mvc.errors import MalformedError
from mvc.types import DType

__all__ = ["SparseDelta"]

_EQUAL: Final = 0
_CHANGES: Final = 1
_SORTED: Final = 2
_RAW: Final = 3

_SPARSE: Final = 8
"""A frame is sparse if at most one word of so many changed; above that sorting them all is as small."""

_LEAST_SHARE: Final = 4
"""A reader takes at most one changed word of so many."""

_SAMPLED_WORDS: Final = 1 << 17
"""Words; the planner's samples are no longer, and neither are the tensors that it tries as a whole."""


@dataclass(frozen=True, slots=True)
class SparseDelta(Plain):
    """Store the words that differ from a base, and nothing of the others.

    A step of reinforcement learning changes about one bf16 weight of a hundred, most of them by one unit in the last
    place. A frame costs what its changes cost; the rest is compared, or copied, at the speed of memory.
    """

    name: ClassVar[str] = "sparse-delta"
    roles: ClassVar[tuple[str, ...]] = ("base",)

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
            changed = Changes(positions[:count], deltas[: count * spec.dtype.word_bytes])
            return bytes([_CHANGES]) + encode_changes(changed, sides[0], spec.dtype)
        if spec.words > _SAMPLED_WORDS:
            return bytes([_SORTED]) + SortedDelta(0).encode(frame, sides, spec)
        return bytes([_RAW]) + frame.tobytes()

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]`` with the changes of `stored` into `out`."""
        mode, body = (stored[0], memoryview(stored)[1:]) if len(stored) else (None, memoryview(b""))
        if mode == _EQUAL and not body:
            out[:] = sides[0]
        elif mode == _CHANGES:
            changed = decode_changes(body, sides[0], spec, most=spec.words // _LEAST_SHARE)
            kernels.active.patch(sides[0], kernels.number_of(spec.dtype), changed.positions, changed.deltas, out)
        elif mode == _SORTED:
            SortedDelta(0).decode(body, sides, spec, out)
        elif mode == _RAW and len(body) == spec.nbytes:
            out[:] = body
        else:
            raise MalformedError(f"sparse delta of {spec.nbytes} bytes has mode {mode} and {len(body)} bytes behind it")
