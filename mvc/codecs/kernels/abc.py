"""What the hot loops of the codecs do, whoever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.types import DType

__all__ = ["CLASSES", "Buffer", "Kernels", "Number", "Positions", "Sums", "number_of", "scratch_bytes"]

Buffer = bytes | memoryview | Bytes
"""One plane as a decoder finds it: zstd's output, a part of the stored bytes, or an array."""

Sums = npt.NDArray[np.int64]
"""One number for each row of a frame; see `Kernels.measure`."""

CLASSES: Final = 8
"""Classes of words in a sparse delta (spec-v1, section 6.7)."""

Positions = npt.NDArray[np.uint32]
"""Indices of words in a frame, or numbers of words; see `Kernels.changes` and `Kernels.gaps`."""


class Number(NamedTuple):
    """How the kernels read a word.

    Parameters
    ----------
    word_bytes : int
        1, 2, 4 or 8.
    exponent_bits, mantissa_bits : int
        The fields of a float below its sign bit; both 0 for words without them.
    """

    word_bytes: int
    exponent_bits: int
    mantissa_bits: int


def number_of(dtype: DType) -> Number:
    """Return how the kernels read the words of `dtype`."""
    if dtype.kind == "float":
        return Number(dtype.word_bytes, dtype.exponent_bits, dtype.mantissa_bits)
    return Number(dtype.word_bytes, 0, 0)


def scratch_bytes(number: Number, words: int) -> int:
    """Return the bytes of working memory that `sort` and `unsort` need: a key and a copy of each word."""
    return words * (2 + number.word_bytes)


class Kernels(Protocol):
    """The functions that `reference` defines and `_native` repeats, byte for byte.

    Frames are little-endian words without alignment, planes a sequence of P buffers of N bytes. A caller's mistake in a
    length raises ValueError; the words themselves may be anything.
    """

    def split(self, words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None:  # noqa: FBT001
        """Write byte k of every word into ``planes[k]``, after turning words left by one bit if `rotate`."""

    def join(self, planes: Sequence[Buffer], words: Bytes, rotate: bool, /) -> None:  # noqa: FBT001
        """Undo `split`."""

    def measure(self, target: Bytes, base: Bytes, number: Number, row_words: int, deltas: Bytes, sums: Sums, /) -> None:
        """Write the zigzag deltas of a frame and how large they are, row by row.

        ``sums[i]`` becomes the sum over row i of (bit length of the delta + exponent field of the base), or -1 if the
        row did not change at all.
        """

    def sort(
        self,
        deltas: Bytes,
        base: Bytes,
        number: Number,
        rows: Bytes,
        row_words: int,
        mantissa: int,
        planes: Sequence[Bytes],
        scratch: Bytes,
        /,
    ) -> None:
        """Write the planes of `deltas` in stable order of the key (spec-v1, section 6.4, steps 5 and 6).

        `scratch` is `scratch_bytes` of working memory, to be reused from frame to frame.
        """

    def unsort(
        self,
        planes: Sequence[Buffer],
        base: Bytes,
        number: Number,
        rows: Buffer,
        row_words: int,
        mantissa: int,
        target: Bytes,
        scratch: Bytes,
        /,
    ) -> None:
        """Undo `sort` and then `measure`: write the words that lie the deltas of `planes` away from `base`."""

    def changes(self, target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int:
        """Find the words of a frame that differ from the base, unless there are more than ``len(positions)``.

        Writes their indices, ascending, and for each the word u - 1, where u is its zigzag delta. What lies behind the
        changes found is undefined.

        Returns
        -------
        int
            The number of changed words, or -1 if there are more than fit.
        """

    def gaps(
        self, base: Bytes, number: Number, top: int, positions: Positions, gaps: Positions, classes: Bytes, /
    ) -> None:
        """Write the class and the gap of each changed word (spec-v1, section 6.7, steps 1 and 3), in their order.

        `top` is T, 0 to 2047; `positions` ascend. A gap counts words of one class.
        """

    def locate(
        self, base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /
    ) -> bool:
        """Undo `gaps`: write the positions of changed words, class by class.

        ``counts[c]`` of the `gaps` belong to class c; there are `CLASSES` of them.

        Returns
        -------
        bool
            False if a gap leads beyond the last word of its class; then `positions` are undefined.
        """

    def patch(self, base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None:
        """Undo `changes`: write `base`, and the words at `positions` where `deltas` say; every one must be in range."""
