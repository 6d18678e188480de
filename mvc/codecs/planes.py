"""The codec for tensors on their own: byte planes, each coded by itself (spec-v1, section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.plain import Plain
from mvc.codecs.plane_coding import decode_planes, encode_planes

__all__ = ["Planes"]


@dataclass(frozen=True, slots=True)
class Planes(Plain):
    """Split words into byte planes and code each on its own.

    The exponents of a trained weight take few values, its low mantissa bits are noise: apart from each other the first
    shrink to a third, and the others cost no time.
    """

    name: ClassVar[str] = "planes"

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:  # noqa: ARG002
        """Return the coded planes of `frame`."""
        planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
        kernels.active.split(frame, planes, spec.dtype.kind == "float")
        return encode_planes(planes, min(spec.row_words, spec.words))

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:  # noqa: ARG002
        """Decode the planes of `stored` and join them in `out`."""
        planes = decode_planes(memoryview(stored), spec.dtype.word_bytes, spec.words)
        kernels.active.join(planes, out, spec.dtype.kind == "float")
