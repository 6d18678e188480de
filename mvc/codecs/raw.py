"""The codec that changes nothing (spec-v1, section 6.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from mvc.codecs.abc import Bytes, Codec, FrameSpec
from mvc.codecs.parameters import require_parameters
from mvc.errors import MalformedError

__all__ = ["Raw"]


@dataclass(frozen=True, slots=True)
class Raw(Codec):
    """Store a frame as it is.

    For literals and tensors that nothing makes smaller: reading costs one copy.
    """

    name: ClassVar[str] = "raw"

    @property
    def parameters(self) -> Mapping[str, int]:
        """None."""
        return {}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec; `parameters` must be empty."""
        require_parameters(parameters, frozenset(), cls.name)
        return cls()

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:  # noqa: ARG002
        """Return the bytes of `frame`."""
        return frame.tobytes()

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:  # noqa: ARG002
        """Copy `stored` to `out`."""
        if len(stored) != spec.nbytes:
            raise MalformedError(f"raw frame of {spec.nbytes} bytes has {len(stored)} stored bytes")
        out[:] = np.frombuffer(stored, dtype=np.uint8)
