"""The kernels of `sparse-delta` in NumPy (spec-v1, section 6.7)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import CLASSES, Number, Positions
from mvc.codecs.kernels.words import Words, check, check_frame, exponents, forward, inverse, words_of

__all__ = ["changes", "gaps", "locate", "patch"]

_MAX_EXPONENT: Final = 2047
"""Largest exponent field: that of fp64."""


def changes(target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int:
    """Find the words of a frame that differ from the base (`Kernels.changes`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(target) == len(base), "target and base differ in size")
    check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    t, b = words_of(target, number.word_bytes), words_of(base, number.word_bytes)
    found = np.flatnonzero(t != b)
    if len(found) > len(positions):
        return -1
    positions[: len(found)] = found
    u = forward(t[found], b[found], is_float=number.exponent_bits > 0)
    deltas.view(u.dtype)[: len(found)] = u - u.dtype.type(1)
    return len(found)


def _classes(b: Words, number: Number, top: int) -> Bytes:
    if not number.exponent_bits:
        return np.zeros(len(b), dtype=np.uint8)
    return np.clip(top - exponents(b, number).astype(np.int16), 0, CLASSES - 1).astype(np.uint8)


def gaps(base: Bytes, number: Number, top: int, positions: Positions, gaps: Positions, classes: Bytes, /) -> None:
    """Write the class and the gap of each changed word (`Kernels.gaps`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(positions) == len(gaps) == len(classes), "positions, gaps and classes differ in number")
    check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    b = words_of(base, number.word_bytes)
    check(not len(positions) or int(positions[-1]) < len(b), "a position lies beyond the frame")
    check(bool((positions[1:] > positions[:-1]).all()), "positions do not ascend")
    every = _classes(b, number, top)
    classes[:] = every[positions]
    for c in range(CLASSES):
        mine = np.flatnonzero(classes == c)
        ranks = np.searchsorted(np.flatnonzero(every == c), positions[mine])
        gaps[mine] = np.diff(ranks, prepend=-1) - 1


def locate(base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /) -> bool:
    """Undo `gaps` (`Kernels.locate`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(counts) == CLASSES and int(counts.sum(dtype=np.int64)) == len(gaps), "counts do not cover the gaps")
    check(len(positions) == len(gaps), "positions and gaps differ in number")
    check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    every = _classes(words_of(base, number.word_bytes), number, top)
    start = 0
    for c, count in enumerate(counts.tolist()):
        members = np.flatnonzero(every == c)
        ranks = np.cumsum(gaps[start : start + count].astype(np.int64) + 1) - 1
        if count and ranks[-1] >= len(members):
            return False
        positions[start : start + count] = members[ranks]
        start += count
    return True


def patch(base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None:
    """Undo `changes` (`Kernels.patch`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(target) == len(base), "target and base differ in size")
    check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    b, v = words_of(base, number.word_bytes), words_of(deltas, number.word_bytes)
    check(not len(positions) or int(positions.max()) < len(b), "a position lies beyond the frame")
    target[:] = base
    u = v + v.dtype.type(1)
    target.view(b.dtype)[positions] = inverse(u, b[positions], is_float=number.exponent_bits > 0)
