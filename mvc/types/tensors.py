"""What a tensor is, apart from its bytes: element type and shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from mvc.errors import InvalidInputError
from mvc.types.dtypes import DType

__all__ = ["MAX_RANK", "TensorSpec", "View"]

MAX_RANK: Final = 32
"""Dimensions of a tensor; NumPy 1 stopped at 32 and PyTorch models use at most 6."""

_MAX_BYTES: Final = 1 << 62
"""Bytes of a tensor; keeps every product of dimensions inside a signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Element type and shape of a tensor.

    Raises
    ------
    InvalidInputError
        On a negative dimension, more than `MAX_RANK` dimensions, more than 2**62 bytes, or a packed dtype whose
        elements do not fill whole bytes.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> spec = TensorSpec(dtype_of("BF16"), (30522, 384))
    >>> spec.count, spec.nbytes, spec.words, spec.row_words
    (11720448, 23440896, 11720448, 384)
    """

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int = field(init=False, repr=False, compare=False)
    """Bytes of the tensor in C order."""

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_RANK:
            raise InvalidInputError(f"a tensor has {len(self.shape)} dimensions; at most {MAX_RANK} are supported")
        if self.shape and min(self.shape) < 0:
            raise InvalidInputError(f"shape {self.shape} has a negative dimension")
        bits = self.count * self.dtype.bits
        if bits > 8 * _MAX_BYTES:
            raise InvalidInputError(f"shape {self.shape} of {self.dtype.name} has more than 2**62 bytes")
        if bits % 8:
            raise InvalidInputError(f"shape {self.shape} of {self.dtype.name} does not fill whole bytes")
        object.__setattr__(self, "nbytes", bits // 8)  # asked for again and again

    @property
    def count(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def words(self) -> int:
        """Number of coded words (see `DType`)."""
        return self.nbytes // self.dtype.word_bytes

    @property
    def row_words(self) -> int:
        """Words of one row, i.e. of everything behind the first dimension; all words for rank 0 and 1, at least 1."""
        rows = self.shape[0] if len(self.shape) > 1 else 1
        return max(1, self.words // rows) if rows else 1


@dataclass(frozen=True, slots=True)
class View:
    """A strided window on a one-dimensional tensor, in elements.

    Parameters
    ----------
    offset : int
        First element.
    strides : tuple of int
        Step of each dimension; as long as the shape. Never negative.

    Raises
    ------
    InvalidInputError
        If offset or a stride is negative.
    """

    offset: int
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.offset < 0 or any(stride < 0 for stride in self.strides):
            raise InvalidInputError(f"view at {self.offset} with strides {self.strides} runs backwards")

    def end(self, shape: tuple[int, ...]) -> int:
        """Return the first element behind a view of `shape`; 0 if it has no elements.

        Examples
        --------
        >>> View(2, (1, 4)).end((4, 3))
        14
        """
        if 0 in shape:
            return 0
        return self.offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, self.strides, strict=True))
