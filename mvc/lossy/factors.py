"""Factors of second moments, kept for those who go over the layers of a model more than once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mvc.lossy.calibration import Matrix
from mvc.lossy.gptq import Factor, gptq_factor

__all__ = ["Factors"]

_MOST_BYTES: Final = 1 << 30
"""Of all factors together: those of 90 layers with 1,200 inputs each."""


class Factors:
    """Factors by the name of their layer, computed once while there is room.

    The first ones are kept, not the latest: whoever goes over all layers again would find that the latest have pushed
    out exactly those that come next.

    Parameters
    ----------
    most : int
        Bytes to keep at most.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._room = most
        self._kept: dict[str, Factor] = {}

    def of(self, name: str, hessian: Callable[[], Matrix]) -> Factor:
        """Return the factor of a layer, whose H is read if need be; raises what `gptq_factor` does."""
        if name in self._kept:
            return self._kept[name]
        factor = gptq_factor(hessian())
        if factor.upper.nbytes <= self._room:
            self._room -= factor.upper.nbytes
            self._kept[name] = factor
        return factor
