"""Small models, and what becomes of them: epochs, sparse changes, more rows, other names, a large tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

__all__ = ["CHANGES", "Weights", "adapter", "fresh", "tuned", "with_large"]

Weights = Mapping[str, np.ndarray]
"""Tensors by name."""

_LARGE: Final = 2_200_000
"""Words of 2 bytes: more than the 4 MiB from which on a blob is a file of its own."""


def fresh(seed: int) -> Weights:
    """Return a small model of several types, two names of which hold the same tensor."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.02, (48, 32)).astype("<f4")
    return {
        "embed.weight": weight,
        "head.weight": weight,
        "layer.weight": rng.normal(0, 0.02, (64, 40)).astype("<f2"),
        "layer.scale": rng.integers(-9, 9, 200).astype("i1"),
        "mask": rng.random(70) < 1 / 2,
        "step": np.array(seed, "<i8"),
        "none": np.zeros((0, 4), "<f4"),
    }


def adapter(seed: int) -> Weights:
    """Return a tiny low-rank adapter."""
    rng = np.random.default_rng(seed)
    return {f"lora_{side}": rng.normal(0, 0.01, shape).astype("<f4") for side, shape in _LORA.items()}


_LORA: Final = {"A": (2, 32), "B": (48, 2)}


def tuned(weights: Weights, seed: int, size: float = 2e-5) -> Weights:
    """Return a model after an epoch: floats a little different, the counter one more, everything else the same."""
    rng = np.random.default_rng([seed, 1])

    def moved(value: np.ndarray) -> np.ndarray:
        """Return one tensor after the epoch."""
        if value.dtype.kind == "f":
            return (value + rng.normal(0, size, value.shape)).astype(value.dtype)
        return np.asarray(value + 1) if value.dtype == np.dtype("<i8") else value

    return {name: moved(value) for name, value in weights.items()}


def _sparsely(weights: Weights, seed: int) -> Weights:
    """Return a model of which a few words differ."""
    rng = np.random.default_rng([seed, 2])
    result = {name: value.copy() for name, value in weights.items()}
    for value in result.values():
        if value.size > 100 and value.dtype.kind == "f":
            flat = value.reshape(-1)
            flat[rng.integers(0, flat.size, 5)] += flat.dtype.type(0.001)
    return result


def _grown(weights: Weights, seed: int) -> Weights:
    """Return a model whose matrices have some more rows."""
    rng = np.random.default_rng([seed, 3])
    return {
        name: np.concatenate([value, rng.normal(0, 0.02, (3, *value.shape[1:])).astype(value.dtype)])
        if value.ndim == 2 and 0 < value.shape[0] < 200
        else value
        for name, value in weights.items()
    }


def _renamed(weights: Weights, seed: int) -> Weights:
    """Return the same tensors under other names."""
    return {f"m{seed}.{name.rpartition('.')[2] if name.startswith('m') else name}": w for name, w in weights.items()}


def with_large(weights: Weights, seed: int) -> Weights:
    """Return a model with a tensor that is stored as a file of its own, and is quickly compressed."""
    large = np.zeros(_LARGE, "<u2")
    large[:: 50_000 + seed] = seed + 1
    return {**weights, "large": large}


CHANGES: Final[dict[str, Callable[[Weights, int], Weights]]] = {
    "tuned": tuned,
    "sparse": _sparsely,
    "grown": _grown,
    "renamed": _renamed,
}
"""What a training may do with a model, by name; each takes the model and a seed."""
