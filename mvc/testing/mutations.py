"""Inputs that no writer wrote, made of good ones: seeded, and quick, so that a million take a minute."""

from __future__ import annotations

from random import Random
from typing import Final

__all__ = ["hostile"]

_HEADS: Final = 64
"""Bytes at the beginning of an input where modes, counts and lengths stand: half of all damage is done there."""

_NOISE: Final = 200
"""Bytes of an input that is nothing but noise."""


def hostile(random: Random, stored: bytes, other: bytes, count: int) -> bytes:
    """Return an input made of two good ones.

    Parameters
    ----------
    random : Random
        Where chance comes from.
    stored, other : bytes
        Two inputs that writers wrote.
    count : int
        A number that the input depends on; numbers near it are written where numbers may stand.
    """
    match random.randrange(7):
        case 0:
            return random.randbytes(random.randrange(_NOISE))
        case 1:
            return stored[: _place(random, stored)]
        case 2:
            at = _place(random, stored)
            return stored[:at] + random.randbytes(random.randrange(1, 9)) + stored[at:]
        case 3:
            return stored[: _place(random, stored)] + other[_place(random, other) :]
        case 4:
            return _lying(random, stored, count)
        case _:
            return _flipped(random, stored)


def _place(random: Random, stored: bytes) -> int:
    """Return a place in `stored`, half of the time among its first bytes."""
    limit = len(stored) if random.random() < 0.5 else min(len(stored), _HEADS)
    return random.randrange(limit + 1)


def _flipped(random: Random, stored: bytes) -> bytes:
    """Return `stored` with one to four bits flipped, or bytes replaced."""
    copy = bytearray(stored)
    for _ in range(random.randrange(1, 5)):
        at = min(_place(random, stored), len(copy) - 1)
        copy[at] = random.randrange(256) if random.random() < 0.5 else copy[at] ^ 1 << random.randrange(8)
    return bytes(copy)


def _lying(random: Random, stored: bytes, count: int) -> bytes:
    """Return `stored` with a count or length near an edge written over some of its bytes."""
    edges = (0, 1, count - 1, count, count + 1, len(stored), 1 << 24, (1 << 24) + 1, 1 << 31, (1 << 32) - 1)
    at, value = min(_place(random, stored), len(stored)), random.choice(edges)
    width = random.choice((1, 2, 4, 8))
    patch = (value % (1 << (8 * width))).to_bytes(width, "little")
    return (stored[:at] + patch + stored[at + width :])[: max(len(stored), at + width)]
