"""The codec for what is left of a tensor when some of its rows or columns are taken away (spec-v1, section 6.11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np

from mvc.codecs.abc import Bytes, Codec, FrameSpec, Parameters
from mvc.codecs.parameters import bytes_parameter, require_parameters
from mvc.codecs.selection import Selection, selected
from mvc.codecs.sorted_delta import SortedDelta
from mvc.errors import MalformedError
from mvc.types import TensorSpec

__all__ = ["Slice"]

_EQUAL: Final = 0
_SORTED: Final = 1


@dataclass(frozen=True, slots=True)
class Slice(Codec):
    """Store which rows and columns of another tensor this one is.

    Parameters
    ----------
    selection : Selection
        What is kept of the other tensor.
    """

    name: ClassVar[str] = "slice"
    roles: ClassVar[tuple[str, ...]] = ("whole",)

    selection: Selection = field(compare=False)
    keep: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", self.selection.encoded)

    @property
    def parameters(self) -> Parameters:
        """``keep``."""
        return {"keep": self.keep}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, object]) -> Self:
        """Return the codec that wrote `parameters`."""
        require_parameters(parameters, frozenset({"keep"}), cls.name)
        return cls(Selection.decode(bytes_parameter(parameters, "keep")))

    def side(
        self, whole: TensorSpec, part: TensorSpec, start: int, words: int, read: Callable[[int, int], Bytes]
    ) -> Bytes:
        """Return what ``sides[0]`` is for a range of words of a tensor.

        Parameters
        ----------
        whole, part : TensorSpec
            Of the tensor that is referred to, and of the one that is coded.
        start, words : int
            The range.
        read : callable
            Returns the bytes of a range of words of the whole: first word, number of words.

        Raises
        ------
        MalformedError
            If the one cannot be what is left of the other.
        """
        if not self.selection.suits(whole, part):
            shapes = f"{whole.dtype.name}{list(whole.shape)} leaves no {part.dtype.name}{list(part.shape)}"
            raise MalformedError(f"what is kept of {list(self.selection.whole)} elements of {shapes}")
        return selected(self.selection, part.dtype, start, words, read)

    def encode(self, frame: Bytes, sides: Sequence[Bytes], spec: FrameSpec) -> bytes:
        """Return nothing but the form if `frame` is ``sides[0]``, the changes otherwise."""
        if np.array_equal(frame, sides[0]):
            return bytes([_EQUAL])
        return bytes([_SORTED]) + SortedDelta(0).encode(frame, sides, spec)

    def decode(self, stored: bytes | memoryview, sides: Sequence[Bytes], spec: FrameSpec, out: Bytes) -> None:
        """Write ``sides[0]``, with the changes of `stored` if there are any, into `out`."""
        form = stored[0] if len(stored) else None
        if form == _EQUAL and len(stored) == 1:
            out[:] = sides[0]
        elif form == _SORTED:
            SortedDelta(0).decode(memoryview(stored)[1:], sides, spec, out)
        else:
            raise MalformedError(f"a slice in {len(stored)} bytes has form {form}")
