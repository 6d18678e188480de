"""Tensors from tensors, at a loss that is bounded and measured: what comes out is new content with an id of its own."""

from __future__ import annotations

from mvc.lossy.precision import Precision, grid_of, rounded
from mvc.lossy.rounding import Rounded, absolute, mantissa, measured
from mvc.lossy.squares import Loss, Squares, squares

__all__ = [
    "Loss",
    "Precision",
    "Rounded",
    "Squares",
    "absolute",
    "grid_of",
    "mantissa",
    "measured",
    "rounded",
    "squares",
]
