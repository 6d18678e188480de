"""Search for the last of some settings, each coarser than the one before, whose error is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["Tried", "last_within"]

_LEAST: Final = 1e-300
_MOST: Final = 1e300
"""Errors are taken for these at least and at most, so that they have logarithms."""

_FLAT: Final = 1e-6
"""Powers of two by which errors are taken to grow at least, so that a line through them ends."""


class Tried(NamedTuple):
    """A setting and the error that was measured with it."""

    place: int
    error: float


def last_within(
    count: int, error_at: Callable[[int], float], most: float, *, first: int, slope: float, rounds: int
) -> Tried | None:
    """Return the last place found whose error is at most `most`; None if not even that of place 0 is.

    Logarithms of errors are taken to grow evenly: the next place to try is where a line through the last two reaches
    `most`, and never beyond one that is known to be too much (secant method in brackets).

    Parameters
    ----------
    count : int
        Places there are, 1 or more.
    error_at : callable
        Measures the error at a place; it should grow with the place. What is no number is too much.
    most : float
        The error to stay within, above 0.
    first : int
        Place to begin with.
    slope : float
        By how many powers of two the error may grow with each place, until it is known better.
    rounds : int
        How often to measure at most, 2 or more.
    """
    good: Tried | None = None
    bad: Tried | None = None
    before: Tried | None = None
    place = first
    for left in range(rounds - 1, -1, -1):
        error = error_at(place)
        tried = Tried(place, math.inf if math.isnan(error) else error)
        if tried.error <= most:
            good = tried
        else:
            bad = tried
        low, high = good.place + 1 if good else 0, bad.place - 1 if bad else count - 1
        if low > high:
            break
        if before:
            slope = max((_log(tried.error) - _log(before.error)) / (tried.place - before.place), _FLAT)
        wanted = tried.place + math.floor((_log(most) - _log(tried.error)) / slope)
        place = 0 if left == 1 and good is None else min(max(wanted, low), high)
        before = tried
    return good


def _log(error: float) -> float:
    return math.log2(min(max(error, _LEAST), _MOST))
