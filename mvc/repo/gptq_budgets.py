"""Budgets of delta-GPTQ: a size or an error of the model, and the steps of layers that keep it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mvc.errors import InvalidInputError
from mvc.lossy.gptq import Quantized
from mvc.lossy.search import last_within
from mvc.objects.fields import Scalar
from mvc.repo.gptq_outputs import Around, Layers, Outputs, Steps, error_of
from mvc.repo.gptq_transform import Layer, Mode
from mvc.repo.transforms import Rest

__all__ = ["ErrorBudget", "Rate", "SizeBudget"]

_OCTAVE: Final = 16
"""Steps to choose from in a power of two: one changes the size of MiniLM's layers by 4 to 5 %."""

_MULTIPLES: Final[tuple[float, ...]] = tuple(2.0 ** (place / _OCTAVE) for place in range(-4 * _OCTAVE, 6 * _OCTAVE + 1))
"""Steps to choose from, in standard deviations of the delta: 1/16 to 64. On MiniLM 1 takes 2.1 bits."""

_FIRST: Final = 7 * _OCTAVE
"""Where a search among them begins: 8, about 0.35 bits."""

_ROUNDS_OF_SIZE: Final = 10
"""Tries of a step for a size. Each quantizes all layers; what a few more could gain is one place or two."""

_ROUNDS_OF_ERROR: Final = 5
"""Tries for an error, first of one step for all, then of a step for each. Each runs the model, too."""

_SIZE_SLOPE: Final = 1 / _OCTAVE
"""Powers of two by which the size shrinks with each place of `_MULTIPLES`, about: it halves if the step doubles."""

_ERROR_SLOPE: Final = 2 / _OCTAVE
"""The same of the error, which grows with the square."""

_ALLOWED_SLOPE: Final = 1 / 8
_ALLOWED: Final[tuple[float, ...]] = tuple(2.0 ** (place * _ALLOWED_SLOPE) for place in range(-16, 17))
"""Predicted errors to allow, in the one that is asked for: predictions may be wrong by a factor of four."""


@dataclass(frozen=True)
class _Searched(Mode):
    """Entropy-coded with steps that a budget allows."""

    _steps: Steps = field(default_factory=dict, init=False, compare=False, repr=False)
    _found: dict[str, Scalar] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    @abstractmethod
    def _budget(self) -> Mapping[str, Scalar]:
        """What was asked for."""

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """See `Mode.parameters`: what was asked for, and what came of it."""
        return {"mode": "ec", **self._budget, **self._found}

    def quantize(self, layer: Layer) -> Quantized:
        """See `Mode.quantize`."""
        return layer.of_multiple(self._steps[layer.tensor.id])

    def _choose(self, steps: Steps, **found: Scalar) -> None:
        self._steps.update(steps)
        self._found.update(found)


@dataclass(frozen=True)
class _WithinSize(_Searched):
    """The smallest steps with which all layers together take so many bytes.

    Parameters
    ----------
    outputs : Outputs or None
        If there are some, each layer has a step of its own, so that they change least; else one serves all.
    """

    outputs: Outputs | None = field(default=None, kw_only=True, compare=False)

    @abstractmethod
    def _room(self, layers: Layers, rest: Rest) -> float:
        """Return the bytes that all layers may take."""

    @abstractmethod
    def _too_small(self, lacking: float) -> InvalidInputError:
        """Return what to say if the largest steps take so many bytes more."""

    def _counted(self, layers: Layers) -> Layers:
        """Return the layers whose sizes count."""
        return layers

    def prepare(self, layers: Layers, rest: Rest) -> None:
        """Search for the steps.

        Raises
        ------
        InvalidInputError
            If even the largest take more.
        """
        counted = self._counted(layers)
        room = self._room(counted, rest)
        multiple = self._one_for_all(counted, room)
        same = {layer.tensor.id: multiple for layer in layers()}
        if self.outputs is None:
            self._choose(same, step=multiple)
            return
        steps, predicted = Around(counted, self.outputs, multiple).within_size(room)
        steps = {**same, **steps}
        error, of_same = (error_of(layers, self.outputs, chosen) for chosen in (steps, same))
        if not error <= of_same:  # the prediction was wrong, and one step for all is better
            steps, error, predicted = same, of_same, of_same
        self._choose(steps, step=multiple, output_error=error, predicted_error=predicted, data=self.outputs.origin)

    def _one_for_all(self, layers: Layers, room: float) -> float:
        """Return the smallest multiple with which all layers fit."""
        largest = len(_MULTIPLES) - 1

        def size_at(place: int) -> float:
            """Return what all layers take, coarsest first."""
            multiple = _MULTIPLES[largest - place]
            return sum(layer.stored_bytes(layer.of_multiple(multiple)) for layer in layers())

        first, rounds = largest - _FIRST, _ROUNDS_OF_SIZE
        found = (
            last_within(largest + 1, size_at, room, first=first, slope=_SIZE_SLOPE, rounds=rounds) if room > 0 else None
        )
        if found is None:
            raise self._too_small(size_at(0) - room)
        return _MULTIPLES[largest - found.place]


@dataclass(frozen=True)
class Rate(_WithinSize):
    """A size of the layers that are quantized.

    Parameters
    ----------
    bits : float
        Stored bits of all linear layers, by their number of elements. Embeddings take the multiple that would serve
        all, and count only if there is nothing else.
    """

    bits: float

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: a quarter more bits; None if the smallest steps stay within these already."""
        return None if self._found.get("step") == _MULTIPLES[0] else Rate(1.25 * self.bits, outputs=self.outputs)

    def _counted(self, layers: Layers) -> Layers:
        linear = [layer.tensor.id for layer in layers() if layer.reads is None]
        return (lambda: (layer for layer in layers() if layer.reads is None)) if linear else layers

    @property
    def _budget(self) -> Mapping[str, Scalar]:
        return {"bits_per_parameter": self.bits}

    def _room(self, layers: Layers, rest: Rest) -> float:  # noqa: ARG002 - what stays does not count here
        elements: int = sum(layer.delta.base.size for layer in layers())
        return self.bits * elements / 8

    def _too_small(self, lacking: float) -> InvalidInputError:  # noqa: ARG002 - people think in bits here
        return InvalidInputError(
            f"{self.bits:g} bits for each parameter are too few, even for what states the steps",
            hint="allow more bits, or leave small layers out: --tensors",
        )


@dataclass(frozen=True)
class SizeBudget(_WithinSize):
    """A size of all tensors of the new commit that are not the base's, those that stay exact included.

    Parameters
    ----------
    size : int
        Bytes.
    """

    size: int

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: a quarter more bytes; None if the smallest steps stay within these already."""
        larger = SizeBudget(self.size + self.size // 4, outputs=self.outputs)
        return None if self._found.get("step") == _MULTIPLES[0] else larger

    @property
    def _budget(self) -> Mapping[str, Scalar]:
        return {"target_size": self.size}

    def _room(self, layers: Layers, rest: Rest) -> float:
        return self.size - rest({layer.tensor.id for layer in layers()})

    def _too_small(self, lacking: float) -> InvalidInputError:
        return InvalidInputError(
            f"{self.size:,} bytes are too few: with the largest steps, and all else exact, "
            f"the tensors take {self.size + int(lacking):,}",
            hint="allow more",
        )


@dataclass(frozen=True)
class ErrorBudget(_Searched):
    """The least size at which the outputs of the model change by so much at most, as measured.

    Parameters
    ----------
    most : float
        Squared error of the outputs, by their squares.
    outputs : Outputs
        Of the model.
    """

    most: float
    outputs: Outputs = field(compare=False)

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: half of the error."""
        return ErrorBudget(self.most / 2, self.outputs)

    @property
    def _budget(self) -> Mapping[str, Scalar]:
        return {"max_output_error": self.most}

    def prepare(self, layers: Layers, rest: Rest) -> None:  # noqa: ARG002 - what stays loses nothing
        """Search for the steps: first one for all, then around it for one of each layer.

        Raises
        ------
        InvalidInputError
            If even the finest steps lose more.
        """
        if not 0 < self.most < math.inf:
            raise InvalidInputError(f"an error of at most {self.most:g} cannot be kept; it must be above 0")
        around = Around(layers, self.outputs, self._one_for_all(layers))
        steps, error = around.same, around.error

        def chosen(place: int) -> tuple[Steps, float]:
            """Return steps of an error predicted to be so many times the one asked for, and their size."""
            return around.within_error(self.most * _ALLOWED[place])

        def error_at(place: int) -> float:
            """Return the error of these, measured."""
            return error_of(layers, self.outputs, chosen(place)[0])

        first, rounds = _ALLOWED.index(1), _ROUNDS_OF_ERROR
        found = last_within(len(_ALLOWED), error_at, self.most, first=first, slope=_ALLOWED_SLOPE, rounds=rounds)
        if found is not None and chosen(found.place)[1] < around.size:
            steps, error = chosen(found.place)[0], found.error
        self._choose(steps, step=around.multiple, output_error=error, data=self.outputs.origin)

    def _one_for_all(self, layers: Layers) -> float:
        """Return about the largest multiple with which the error is kept."""
        least = math.inf

        def error_at(place: int) -> float:
            """Return the error with one step for all, measured."""
            nonlocal least
            error = error_of(layers, self.outputs, {layer.tensor.id: _MULTIPLES[place] for layer in layers()})
            least = min(least, error)
            return error

        rounds = _ROUNDS_OF_ERROR
        found = last_within(len(_MULTIPLES), error_at, self.most, first=_FIRST, slope=_ERROR_SLOPE, rounds=rounds)
        if found is None:
            raise InvalidInputError(
                f"an error of at most {self.most:g} cannot be kept: with the finest steps it is {least:g}",
                hint="store the model without loss, or leave layers out: --tensors",
            )
        return _MULTIPLES[found.place]
