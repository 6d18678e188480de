"""How long what is stored under a key is, and reading it piece by piece: what servers need of any engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mvc.errors import NotFoundError
from mvc.remotes.engine import Engine
from mvc.remotes.keys import check_key

__all__ = ["read_pieces", "size_of"]

_PIECE: Final = 4 << 20
"""Bytes that are read at once: enough for a disk, and little memory for each of many requests."""


def size_of(engine: Engine, key: str) -> int:
    """Return the bytes that are stored under a key.

    Raises
    ------
    IntegrityError
        If it is no key.
    NotFoundError
        If there is nothing.
    """
    found = engine.info(check_key(key))
    if found is None:
        raise NotFoundError(f"there is no {key}")
    return found.size


def read_pieces(engine: Engine, key: str, offset: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes at `offset`, some at a time; errors as of `Engine.read`."""
    done = 0
    while done < length or not length:
        piece = engine.read(key, offset + done, min(_PIECE, length - done))
        yield piece
        done += len(piece)
        if not length:
            return
