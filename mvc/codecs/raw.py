"""The codec that changes nothing (spec-v1, section 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.plain import Plain
from mvc.errors import MalformedError

__all__ = ["Raw"]


@dataclass(frozen=True, slots=True)
class Raw(Plain):
    """Store a frame as it is.

    For literals and tensors that nothing makes smaller: reading costs one copy.
    """

    name: ClassVar[str] = "raw"

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:  # noqa: ARG002
        """Return the bytes of `frame`."""
        return frame.tobytes()

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:  # noqa: ARG002
        """Copy `stored` to `out`."""
        if len(stored) != spec.nbytes:
            raise MalformedError(f"raw frame of {spec.nbytes} bytes has {len(stored)} stored bytes")
        out[:] = np.frombuffer(stored, dtype=np.uint8)
