"""What a scanned pickle is made of. Every value is inert: nothing here is, imports or calls what the pickle names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mvc.types import DType, TensorSpec

__all__ = ["INLINE", "Global", "Node", "Storage", "Tensor", "UnreadablePickleError"]


class UnreadablePickleError(ValueError):
    """The pickle is malformed, too large, or does something that the scanner does not follow; its file is literal."""


@dataclass(frozen=True, slots=True)
class Global:
    """The dotted name of a class or function that the pickle mentions."""

    path: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to the record that holds the elements of one or more tensors.

    Parameters
    ----------
    key : str
        Name of the record below ``data/``.
    dtype : DType, optional
        Of a typed storage; None for an untyped one.
    count : int
        Elements of a typed storage, bytes of an untyped one.
    """

    key: str
    dtype: DType | None
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes that the record must have."""
        return self.count if self.dtype is None else self.count * self.dtype.bits // 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided window on a storage; offset and strides in elements."""

    storage: Storage
    spec: TensorSpec
    offset: int
    strides: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Node:
    """A dict, or an object of a class that is not known.

    Parameters
    ----------
    path : str
        Name of the class or function; empty for dicts and ordered dicts.
    pairs : list of (key, value)
        Items, arguments and attributes in the order of the pickle. A list, since keys are not trusted to be hashed.
    """

    path: str = ""
    pairs: list[tuple[object, object]] = field(default_factory=list)


INLINE: Final = Global("")
"""A key whose value adds nothing to the name of what is in it: the attributes of an object."""
