"""Some indices of each dimension of a tensor, and the words of the tensor that they leave (spec-v1, section 6.11).

Pure: `Selection` says what is kept; `selected` takes the words of a range from those of the whole tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.errors import InvalidInputError, MalformedError
from mvc.types import MAX_RANK, DType, TensorSpec

__all__ = ["Indices", "Selection", "selected"]

Indices = npt.NDArray[np.int64]
"""Kept indices of one dimension, ascending."""

_MOST_ROW: Final = 1 << 24
"""Words of the whole at one index of its first dimension (spec-v1, section 6.11): a reader holds that many."""

_MOST_SPAN: Final = 1 << 22
"""Words of the whole held at once where its rows are shorter: as for fitted bases, four frames of the usual size."""

_MOST_BYTES: Final = 1 << 21
"""Bytes of the parameter ``keep`` (spec-v1, section 6.11): decoding takes more than 100 times as much memory."""

_ALL: Final = 0
_SOME: Final = 1
_ENTRY: Final = struct.Struct("<BI")


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """What is kept of a tensor.

    Parameters
    ----------
    whole : tuple of int
        Shape of the tensor; no dimension is 0.
    kept : tuple of Indices or None
        For each dimension what is kept, at least one index and not all; None where all are.

    Raises
    ------
    InvalidInputError
        If that is not so, or there are no dimensions or too many, or ``keep`` would be too long.
    """

    whole: tuple[int, ...]
    kept: tuple[Indices | None, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.whole) <= MAX_RANK or len(self.whole) != len(self.kept):
            raise InvalidInputError(f"{len(self.kept)} sets of indices do not suit {len(self.whole)} dimensions")
        for size, indices in zip(self.whole, self.kept, strict=True):
            if not 1 <= size < 1 << 32 or not (indices is None or _are_some(indices, size)):
                raise InvalidInputError(f"what is kept of a dimension of {size} is nothing, all, or not in order")
        marked = sum(-(-size // 8) for size, part in zip(self.whole, self.kept, strict=True) if part is not None)
        if _ENTRY.size * len(self.whole) + marked > _MOST_BYTES:
            raise InvalidInputError(
                f"kept indices of dimensions of {list(self.whole)} take more than {_MOST_BYTES:,} bytes"
            )

    @classmethod
    def of(cls, whole: Sequence[int], kept: Sequence[Sequence[int] | None]) -> Self:
        """Return the selection of indices, in any order; None, or all of them, keeps a dimension as it is.

        Examples
        --------
        >>> Selection.of((4, 3), [[3, 0], None]).shape
        (2, 3)
        """
        sets = [None if part is None else np.unique(np.asarray(part, np.int64)) for part in kept]
        pairs = zip(whole, sets, strict=False)  # a set too many or too few is refused with the rest
        some = [
            None if indices is None or np.array_equal(indices, np.arange(size)) else indices for size, indices in pairs
        ]
        return cls(tuple(whole), tuple(some + sets[len(some) :]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is left."""
        return tuple(n if s is None else len(s) for n, s in zip(self.whole, self.kept, strict=True))

    def then(self, inner: Selection) -> Selection:
        """Return what is left if of what this one leaves only `inner` stays.

        Raises
        ------
        InvalidInputError
            If that is a selection of another shape.

        Examples
        --------
        >>> Selection.of((4, 3), [[0, 2, 3], None]).then(Selection.of((3, 3), [[1, 2], [0]])).kept
        (array([2, 3]), array([0]))
        """
        if inner.whole != self.shape:
            raise InvalidInputError(f"a selection of {list(inner.whole)} is none of {list(self.shape)}")
        pairs = zip(self.kept, inner.kept, strict=True)
        kept = [new if old is None else old if new is None else old[new] for old, new in pairs]
        return Selection(self.whole, tuple(kept))

    @property
    def encoded(self) -> bytes:
        """The parameter ``keep``."""
        return b"".join(_entry(size, indices) for size, indices in zip(self.whole, self.kept, strict=True))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what the parameter ``keep`` says.

        Raises
        ------
        MalformedError
            If it is not of that form.
        """
        if len(data) > _MOST_BYTES:
            raise MalformedError(f"kept indices take {len(data):,} bytes")
        whole, kept, at = list[int](), list[Indices | None](), 0
        while at < len(data) and len(whole) < MAX_RANK:
            size, indices, at = _read_entry(data, at)
            whole.append(size)
            kept.append(indices)
        if at != len(data):
            raise MalformedError(f"kept indices of {len(whole)} dimensions end at byte {at} of {len(data)}")
        try:
            return cls(tuple(whole), tuple(kept))
        except InvalidInputError as error:
            raise MalformedError(error.message) from error

    def suits(self, whole: TensorSpec, part: TensorSpec) -> bool:
        """Return whether one tensor can be what is left of another one."""
        element, rest = divmod(part.dtype.bits, 8 * part.dtype.word_bytes)
        row = math.prod(self.whole[1:]) * element
        return (
            whole.dtype == part.dtype
            and not rest
            and (whole.shape, part.shape) == (self.whole, self.shape)
            and row <= _MOST_ROW
        )


def _are_some(indices: Indices, size: int) -> bool:
    return bool(0 < len(indices) < size and indices[0] >= 0 and indices[-1] < size and (np.diff(indices) > 0).all())


def _entry(size: int, indices: Indices | None) -> bytes:
    if indices is None:
        return _ENTRY.pack(_ALL, size)
    marks = np.zeros(size, np.uint8)
    marks[indices] = 1
    return _ENTRY.pack(_SOME, size) + np.packbits(marks, bitorder="little").tobytes()


def _read_entry(data: bytes, at: int) -> tuple[int, Indices | None, int]:
    """Return the size of a dimension, what is kept of it, and where the entry ends."""
    if at + _ENTRY.size > len(data):
        raise MalformedError(f"an entry of kept indices is cut off at byte {at} of {len(data)}")
    form, size = _ENTRY.unpack_from(data, at)
    at += _ENTRY.size
    if form == _ALL:
        return size, None, at
    end = at + -(-size // 8)
    if form != _SOME or end > len(data):
        raise MalformedError(f"kept indices of form {form} of a dimension of {size} end behind byte {len(data)}")
    marks = np.unpackbits(np.frombuffer(data, np.uint8, end - at, at), bitorder="little")
    if marks[size:].any():
        raise MalformedError(f"an index behind the {size} of a dimension is kept")
    return size, np.flatnonzero(marks), end


def selected(selection: Selection, dtype: DType, start: int, words: int, read: Callable[[int, int], Bytes]) -> Bytes:
    """Return a range of words of what is left of a tensor.

    Parameters
    ----------
    selection : Selection
        What is kept; it suits both tensors.
    dtype : DType
        Of both.
    start, words : int
        The range, in what is left.
    read : callable
        Returns the bytes of a range of words of the whole: first word, number of words. Called in ascending order.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> whole = np.arange(12, dtype=np.uint8)  # 4 rows of 3
    >>> kept = Selection.of((4, 3), [[1, 3], [0, 2]])
    >>> selected(kept, dtype_of("U8"), 1, 3, lambda start, words: whole[start : start + words]).tolist()
    [5, 9, 11]
    """
    element = dtype.bits // (8 * dtype.word_bytes)
    row = math.prod(selection.shape[1:]) * element
    first, last = start // row, -(-(start + words) // row)
    parts = [
        _rows(selection, rows, element, f"<u{dtype.word_bytes}", read)
        for rows in _bands(selection, first, last, math.prod(selection.whole[1:]) * element)
    ]
    whole_rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole_rows[start - first * row :][:words].view(np.uint8)


def _bands(selection: Selection, first: int, last: int, row: int) -> Iterator[Indices]:
    """Yield the kept rows from `first` to `last`, as many at a time as do not lie too far apart."""
    indices = selection.kept[0]
    rows = np.arange(first, last) if indices is None else indices[first:last]
    done = 0
    while done < len(rows):
        end = int(np.searchsorted(rows, rows[done] + max(1, _MOST_SPAN // row)))
        yield rows[done:end]
        done = end


def _rows(
    selection: Selection, rows: Indices, element: int, words: str, read: Callable[[int, int], Bytes]
) -> npt.NDArray[np.unsignedinteger]:
    """Return the words of what is left at some indices of the first dimension."""
    span, shape = int(rows[-1] - rows[0]) + 1, selection.whole[1:]
    row = math.prod(shape) * element
    found = read(int(rows[0]) * row, span * row).view(words).reshape(span, *shape, element)[rows - rows[0]]
    for axis, indices in enumerate(selection.kept[1:], start=1):
        found = found if indices is None else found.take(indices, axis)
    return np.ascontiguousarray(found).reshape(-1)
