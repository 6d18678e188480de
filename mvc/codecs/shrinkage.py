"""Foretelling the numbers of a tensor by shrinking those of its base, as weight decay does (spec-v1, section 6.9)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.grid_numbers import Numbers
from mvc.types.values import blocks

__all__ = ["predicted", "shrinkage"]

_UNIT: Final = 1 << 32
"""F of a change by the whole number."""

_LOOKED_AT: Final = 1 << 14
"""Numbers that decide on F: an error of the median in the third digit moves the largest changes by that share of what
is taken away."""


def predicted(base: Numbers, factor: int) -> Numbers:
    """Return ``base + round(base * factor / 2**32)``, halves upwards, modulo 2**32."""
    if factor == 0:
        return base
    near: Numbers = np.empty_like(base)
    for part in blocks(len(base)):
        wide = base[part].astype(np.int64)
        near[part] = wide + ((wide * factor + (_UNIT >> 1)) >> 32)
    return near


def shrinkage(numbers: Numbers, base: Numbers) -> int:
    """Return the factor F that leaves the smallest changes from `base` to `numbers`; 0 if none is better.

    The median of the relative changes is that of the weights without a gradient, if there are many; the steps of an
    optimizer on the others point both ways.
    """
    step = len(base) // _LOOKED_AT | 1  # odd, so that it meets every column of rows of an even length
    n, m = numbers[::step].astype(np.int64), base[::step]
    large = (np.abs(m) >= max(1, np.median(np.abs(m)))).nonzero()[0]
    if not len(large):
        return 0
    n, m = n[large], m[large]
    change = np.median((n - m) / m) * _UNIT
    factor = int(np.clip(np.rint(change), -(1 << 31), (1 << 31) - 1))
    return factor if _cost(n - predicted(m, factor)) < _cost(n - m) else 0


def _cost(changes: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """Return about how many bits changes take."""
    return float(np.log2(1 + 2 * np.abs(changes)).sum())
