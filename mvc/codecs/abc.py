"""What a codec is: a pure function between the words of one frame and its stored bytes.

Codecs do no I/O, read no environment and log nothing. A codec is its parameters: a frozen dataclass whose `name` and
`parameters` stand in the blob envelope (spec-v1, sections 5 and 6).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from mvc.types import DType

__all__ = ["Bytes", "Codec", "FrameSpec", "Parameters"]

Parameters = Mapping[str, int | bytes]
"""The parameters of a codec: a canonical map (spec-v1, section 3)."""

Bytes = npt.NDArray[np.uint8]
"""A one-dimensional, C-contiguous array of uint8; may be read-only when it is an input."""


@dataclass(frozen=True, slots=True)
class FrameSpec:
    """What decoder and encoder both know of a frame before they see its bytes.

    Parameters
    ----------
    dtype : DType
        Element type of the tensor.
    words : int
        Words in this frame; at least 1.
    row_words : int
        Words of a row of the tensor (`TensorSpec.row_words`); may exceed `words`.
    start : int
        Words of the tensor in front of the frame; 0 where samples of several places are joined.
    """

    dtype: DType
    words: int
    row_words: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Decoded bytes of the frame."""
        return self.words * self.dtype.word_bytes


class Codec(ABC):
    """Turn the bytes of a frame into stored bytes and back, exactly.

    Subclasses are frozen dataclasses, registered in `mvc.codecs.CODECS` under `name`.
    """

    name: ClassVar[str]
    """Permanent name in the envelope."""

    roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the side tensors, in the order in which `encode` and `decode` take them; ``("base",)`` for a delta."""

    positional: ClassVar[bool] = False
    """Whether a frame is coded by where it lies in its tensor (`FrameSpec.start`)."""

    @property
    @abstractmethod
    def parameters(self) -> Parameters:
        """The canonical map that the envelope stores."""

    @classmethod
    @abstractmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`.

        Raises
        ------
        MalformedError
            If a parameter is missing, unknown, or out of range.
        """

    @abstractmethod
    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return the stored bytes of `frame`, at most ``spec.nbytes + 64`` of them.

        Parameters
        ----------
        frame : Bytes, shape (spec.nbytes,)
            Little-endian words. Not modified.
        sides : sequence of Bytes, each shape (spec.nbytes,)
            The same range of each side tensor, fitted to the shape of this one, in the order of `roles`. Not modified.
        spec : FrameSpec
            Element type, word count and row length.
        """

    @abstractmethod
    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write the frame that `stored` encodes into `out`.

        Parameters
        ----------
        stored : bytes-like
            What `encode` returned; untrusted.
        sides, spec
            As for `encode`.
        out : Bytes, shape (spec.nbytes,), writable
            Receives the frame. Holds undefined bytes after an error.

        Raises
        ------
        MalformedError
            If `stored` is not what `encode` can have written. Nothing larger than a few times the frame is allocated.
        """
