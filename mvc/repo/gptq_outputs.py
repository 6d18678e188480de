"""What the model loses by the steps of its layers, measured at its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.allocate import Allocation, Point, within_error, within_size
from mvc.repo.gptq_transform import Layer
from mvc.types import ObjectId

__all__ = ["Around", "Layers", "Outputs", "Steps", "error_of"]

_AROUND: Final[tuple[float, ...]] = tuple(2.0 ** (place / 2) for place in range(-3, 4))
"""Steps of a layer to choose from when each has its own, in that which would serve all: a third to three times."""

Layers: TypeAlias = Callable[[], Iterator[Layer]]
_Tensors = dict[str, npt.NDArray[np.float32]]
Steps: TypeAlias = dict[ObjectId, float]
"""The multiple of each layer."""


class Outputs(Protocol):
    """Runs the model of the source on some texts."""

    origin: str
    """What a commit records of the texts: BLAKE3 of their file, hexadecimal."""

    def error(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> float:
        """Return the squared error of its outputs with these tensors replaced, by the squares of the outputs."""


class Around:
    """What the model loses if layers have other steps than one that serves all.

    The errors of layers at the outputs do not add up as those of independent noise do: all point the same way, since
    every layer lacks some of what tuning has added. Two consequences. The part that a layer has in the error of the
    model is measured with all others coded, as what goes if this one is exact; and what adds up is the root of the
    error of each layer by itself, weighed by that part.
    """

    def __init__(self, layers: Layers, outputs: Outputs, multiple: float) -> None:
        self.multiple = multiple
        self._points: dict[ObjectId, list[Point]] = {}
        coded: dict[ObjectId, _Tensors] = {}
        for layer in layers():
            oid = layer.tensor.id
            self._points[oid] = list[Point]()
            for factor in _AROUND:
                made = layer.of_multiple(multiple * factor)
                self._points[oid].append(Point(layer.stored_bytes(made), layer.error(made)))
                if factor == 1:
                    coded[oid] = layer.values(made)
        self.error = outputs.error(_together(coded))
        if not math.isfinite(self.error):
            raise InvalidInputError(
                f"with steps of {multiple:g} deviations the model puts out what is not finite",
                hint="ask for less error, or for more bytes",
            )
        shares = {oid: max(self.error - outputs.error(_together(coded, oid)), 0.0) for oid in coded}
        self._weigh(shares, sum(shares.values()))

    def _weigh(self, shares: Mapping[ObjectId, float], total: float) -> None:
        """Turn errors of layers into parts of the root of the error of the model; with one step for all, of 1."""
        for oid, points in self._points.items():
            known = points[_AROUND.index(1)].error
            part = shares[oid] / total if total > 0 else 1 / len(self._points)
            self._points[oid] = [
                Point(point.size, part * math.sqrt(point.error / known) if known > 0 else 0.0) for point in points
            ]

    @property
    def same(self) -> Steps:
        """The same for all."""
        return dict.fromkeys(self._points, self.multiple)

    @property
    def size(self) -> float:
        """What all layers take then, in bytes."""
        return sum(points[_AROUND.index(1)].size for points in self._points.values())

    def within_size(self, most: float) -> tuple[Steps, float]:
        """Return the steps of least error, and that as it is predicted."""
        found = within_size(list(self._points.values()), most)
        return self._steps(found), self.error * found.error**2

    def within_error(self, most: float) -> tuple[Steps, float]:
        """Return the steps of least size with a predicted error of at most so much, or of the least; and that size."""
        least, largest = (
            sum(choose(point.error for point in points) for points in self._points.values()) for choose in (min, max)
        )
        root = math.sqrt(most / self.error) if self.error > 0 else math.inf
        found = within_error(list(self._points.values()), max(min(root, largest), least))
        return self._steps(found), found.size

    def _steps(self, found: Allocation) -> Steps:
        return {oid: self.multiple * _AROUND[k] for oid, k in zip(self._points, found.chosen, strict=True)}


def _together(coded: Mapping[ObjectId, _Tensors], exact: ObjectId | None = None) -> _Tensors:
    """Return the tensors of all layers but one."""
    return {name: values for oid, tensors in coded.items() if oid != exact for name, values in tensors.items()}


def error_of(layers: Layers, outputs: Outputs, steps: Mapping[ObjectId, float]) -> float:
    """Return the error of the model with these steps."""
    return outputs.error(
        {
            name: values
            for layer in layers()
            for name, values in layer.values(layer.of_multiple(steps[layer.tensor.id])).items()
        }
    )
