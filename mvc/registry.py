"""Names to implementations, for codecs, formats and other things that are added by one file and one registration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from mvc.errors import AlreadyExistsError, FormatError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """An insertion-ordered map that refuses duplicates and lists what it knows when a name is missing.

    Parameters
    ----------
    noun : str
        What the entries are, for messages: ``codec``, ``format``.

    Examples
    --------
    >>> numbers = Registry[int]("number")
    >>> numbers.register("one", 1)
    1
    >>> numbers["one"]
    1
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add `entry` under `name` and return it.

        Raises
        ------
        AlreadyExistsError
            If the name is taken: silent replacement would change what stored data means.
        """
        if name in self._entries:
            raise AlreadyExistsError(f"{self._noun} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries) or "none"
            raise FormatError(
                f"{self._noun} {name[:40]!r} is unknown; this installation knows: {known}", hint="upgrade mvc"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def values(self) -> list[T]:
        """Return the entries in the order of registration."""
        return list(self._entries.values())
