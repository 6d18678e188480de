"""A side tensor of another shape, fitted to its target: cut off where it is longer, zero where it ends before.

The specification defines it in section 5. Pure: `Fit` says which words of the base a range of the target needs and
where they go; `fitted` puts them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.types import TensorSpec

__all__ = ["Fit", "Patch", "fitted", "overlap"]

Rows = npt.NDArray[np.int64]

_MOST_SPAN: Final = 1 << 22
"""Words of the base held at once: four frames of the usual size, so that few frames are decoded twice."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A range of words of the base, and where its rows go in a range of the target.

    Parameters
    ----------
    start, words : int
        The range of the base.
    width : int
        Words to copy of each row.
    sources, places : Rows, shape (rows,)
        For each row, in units of `source_step` and `place_step`: where it begins in the range of the base, and in that
        of the target, less `first_place`.
    source_step, place_step : int
        Words from one row to the next, in the base and in the target.
    first_place : int
        Word of the range of the target at which place 0 begins.
    """

    start: int
    words: int
    width: int
    sources: Rows
    places: Rows
    source_step: int
    place_step: int
    first_place: int

    def put(self, base: Bytes, out: Bytes, word_bytes: int) -> None:
        """Copy the rows of `base`, the range of this patch, to their places in `out`."""
        source = _rows(base, word_bytes, 0, self.sources, self.source_step, self.width)
        target = _rows(out, word_bytes, self.first_place, self.places, self.place_step, self.width)
        target[self.places] = source[self.sources]


def _rows(buffer: Bytes, size: int, first: int, rows: Rows, step: int, width: int) -> npt.NDArray[np.unsignedinteger]:
    """Return a view of `buffer` as rows of `width` words, one each `step` words; NumPy checks that they lie inside."""
    shape = int(rows[-1]) + 1, width
    return np.ndarray(shape, f"<u{size}", buffer.data, first * size, (step * size, size))


@dataclass(frozen=True)
class Fit:
    """How a base of one shape lies in a target of another.

    Parameters
    ----------
    target, base : tuple of int
        Shapes in words with as few dimensions as tell the same, at least two. Only the first dimension may be equal in
        both.
    """

    target: tuple[int, ...]
    base: tuple[int, ...]

    @classmethod
    def between(cls, base: TensorSpec, target: TensorSpec) -> Self | None:
        """Return the fit, or None if the specification allows none.

        Examples
        --------
        >>> from mvc.types import dtype_of
        >>> Fit.between(*(TensorSpec(dtype_of("F32"), (rows, 8, 3)) for rows in (100, 120)))
        Fit(target=(1, 2880), base=(1, 2400))
        >>> Fit.between(*(TensorSpec(dtype_of("F32"), (5, 7, columns, 3)) for columns in (8, 9)))
        Fit(target=(35, 27), base=(35, 24))
        """
        if base == target:
            return cls((1, target.words), (1, target.words))
        element, rest = divmod(target.dtype.bits, 8 * target.dtype.word_bytes)
        if base.dtype != target.dtype or len(base.shape) != len(target.shape) or rest:
            return None
        merged = [(1, 1)]
        for b, t in zip((*base.shape, element), (*target.shape, element), strict=True):
            if b == t:  # an equal dimension counts on below the one before it
                merged[-1] = merged[-1][0] * b, merged[-1][1] * t
            else:
                merged.append((b, t))
        return cls(tuple(t for _, t in merged), tuple(b for b, _ in merged))

    @cached_property
    def width(self) -> int:
        """Words that a row of the base and one of the target have in common."""
        return min(self.target[-1], self.base[-1])

    def patches(self, start: int, words: int) -> Iterator[Patch]:
        """Yield what the words from `start` of the target take from the base; words in no patch are zero."""
        if 0 in self.base or not words:
            return
        for first, last, low, high in _bands(start, words, self.target[-1]):
            if low < min(high, self.width):
                yield from self._band(first, last, low, min(high, self.width), start)

    def _band(self, first: int, last: int, low: int, high: int, start: int) -> Iterator[Patch]:
        """Yield the patches of columns `low` to `high` of the rows `first` to `last` of the target."""
        places, sources = self._inside(np.arange(first, last, dtype=np.int64))
        step, done = self.base[-1], 0
        while done < len(sources):
            limit = sources[done] + max(1, _MOST_SPAN // step)
            end = int(np.searchsorted(sources, limit))
            here = slice(done, end)
            yield Patch(
                int(sources[done]) * step + low,
                int(sources[end - 1] - sources[done]) * step + high - low,
                high - low,
                sources[here] - sources[done],
                places[here] - first,
                step,
                self.target[-1],
                first * self.target[-1] + low - start,
            )
            done = end

    def _inside(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return those rows of the target that the base has too, and their numbers in the base; both ascend."""
        index = np.unravel_index(rows, self.target[:-1])
        inside = np.logical_and.reduce([part < size for part, size in zip(index, self.base, strict=False)])
        numbers = np.ravel_multi_index(tuple(part[inside] for part in index), self.base[:-1])
        return rows[inside], np.asarray(numbers, dtype=np.int64)


def _bands(start: int, words: int, step: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield a range of words as rectangles: first row, row behind the last, first column, column behind the last."""
    first, low = divmod(start, step)
    last, high = divmod(start + words, step)
    if first == last:
        yield first, first + 1, low, high
        return
    if low:
        yield first, first + 1, low, step
        first += 1
    if first < last:
        yield first, last, 0, step
    if high:
        yield last, last + 1, 0, high


def fitted(fit: Fit, start: int, words: int, word_bytes: int, read: Callable[[int, int], Bytes]) -> Bytes:
    """Return a range of words of the fitted base.

    Parameters
    ----------
    fit : Fit
        How the base lies in the target.
    start, words : int
        The range of the target.
    word_bytes : int
        Bytes of a word.
    read : callable
        Returns the bytes of a range of words of the base: first word, number of words. Called for what is needed, in
        ascending order.

    Examples
    --------
    >>> base = np.arange(1, 7, dtype=np.uint8)  # 2 rows of 3
    >>> wider = Fit((3, 4), (2, 3))
    >>> fitted(wider, 0, 12, 1, lambda start, words: base[start : start + words]).reshape(3, 4).tolist()
    [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]
    """
    out: Bytes | None = None
    for patch in fit.patches(start, words):
        if patch.width == words:  # one piece is all of it
            return read(patch.start, words)
        out = np.zeros(words * word_bytes, np.uint8) if out is None else out
        patch.put(read(patch.start, patch.words), out, word_bytes)
    return np.zeros(words * word_bytes, np.uint8) if out is None else out


def overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """Return how much of the smaller of two shapes of one rank lies inside the other: 0 to 1.

    Examples
    --------
    >>> overlap((30522, 384), (30600, 384)), overlap((64, 32), (32, 64)), overlap((0, 5), (4, 5))
    (1.0, 0.5, 0.0)
    """
    common = small = big = 1
    for a, b in zip(one, other, strict=True):
        common, small, big = common * min(a, b), small * a, big * b
    return common / min(small, big) if common else 0.0
