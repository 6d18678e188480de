"""Remembering what a method has returned, without keeping its object alive."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from weakref import WeakMethod

from mvc.types import ObjectId

__all__ = ["remembering"]

_T = TypeVar("_T")


def remembering(method: Callable[[ObjectId], _T], most: int) -> Callable[[ObjectId], _T]:
    """Return what calls a method of the object that keeps it, and remembers what it returned last.

    In a circle with it, all that the object keeps would stay until garbage is searched for, which is hardly ever while
    a command runs or a server waits.

    Parameters
    ----------
    method : callable
        Bound; to be called as long as its object is there, which whoever does so holds.
    most : int
        Results that are remembered, those used last.
    """
    known = WeakMethod(method)

    def call(oid: ObjectId) -> _T:
        """Call it; whoever does so holds the object."""
        found = known()
        assert found is not None, "it is called by the object"
        return found(oid)

    return lru_cache(maxsize=most)(call)
