"""Budgets of delta-GPTQ: a size or an error of the model, and the steps of layers that keep it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.gptq import Quantized
from mvc.lossy.search import last_within
from mvc.objects.fields import Scalar
from mvc.repo.gptq_transform import Layer, Mode
from mvc.repo.transforms import Rest
from mvc.types.steps import to_float32

__all__ = ["ErrorBudget", "Outputs", "Rate", "SizeBudget"]

_OCTAVE: Final = 16
"""Steps to choose from in a power of two: one changes the size by about 4 %."""

_MULTIPLES: Final = tuple(2.0 ** (place / _OCTAVE) for place in range(-4 * _OCTAVE, 6 * _OCTAVE + 1))
"""Steps to choose from, in standard deviations of the delta: 1/16, which takes about 6 bits, to 64."""

_Layers = Callable[[], Iterator[Layer]]


class Outputs(Protocol):
    """Runs the model of the source on some texts."""

    def error(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> float:
        """Return the squared error of its outputs with these tensors replaced, by the squares of the outputs."""
