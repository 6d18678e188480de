"""How many states of an entropy coder take turns at the symbols of a frame or plane."""

from __future__ import annotations

from typing import Final

__all__ = ["lane_count"]

_SYMBOLS: Final = 1 << 12
"""Symbols for each lane: two bytes of its state are then 0.15 % of the exponents of bf16, and a matrix of 384 by 384
has 32 lanes, with which it is decoded in half the time of 16."""

_MOST: Final = 128
"""More gave no more speed, compiled."""


def lane_count(symbols: int, least: int) -> int:
    """Return a power of two, `least` or more of them.

    Examples
    --------
    >>> lane_count(1000, 4), lane_count(100_000, 4), lane_count(1 << 20, 4)
    (4, 16, 128)
    """
    lanes = least
    while lanes < _MOST and 2 * lanes * _SYMBOLS <= symbols:
        lanes *= 2
    return lanes
