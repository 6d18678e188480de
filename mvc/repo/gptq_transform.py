"""Delta-GPTQ as commits use it: linear layers become whole steps from their base, all else stays as it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from mvc.codecs import Bytes, StepDelta, frame_specs, frame_words
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.calibration import Calibration, Matrix
from mvc.lossy.gptq import MOST_BITS, Delta, Factor, Quantized, entropy_coded, gptq_factor, uniform
from mvc.objects.fields import Scalar
from mvc.repo.transforms import Made, SourceTensor, Transform
from mvc.types import ObjectId, TensorSpec
from mvc.types.steps import STEPPED, Words

__all__ = ["EntropyCoded", "GptqTransform", "Layer", "Mode", "Rate", "Uniform"]

_LEAST_ELEMENTS: Final = 4096
_LEAST_SIDE: Final = 64
"""Of a matrix that is quantized without a calibration: what is smaller is worth less than its error."""

_MULTIPLES: Final = tuple(2.0 ** (place / 16) for place in range(97))
"""Steps to choose from for a rate, in standard deviations of the delta: 1, which takes about 2 bits, to 64."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix to quantize.

    Parameters
    ----------
    delta : Delta
        It and its base.
    hessian : Matrix or None
        Of its inputs, if they were calibrated.
    """

    delta: Delta
    hessian: Matrix | None

    @property
    def factor(self) -> Factor | None:
        """What feedback needs."""
        return None if self.hessian is None else gptq_factor(self.hessian)


class Mode(ABC):
    """How codes are chosen."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Scalar]:
        """What a commit records."""

    def prepare(self, layers: Callable[[], Iterator[Layer]]) -> None:  # noqa: B027 - most need not
        """Look at all layers first."""

    @abstractmethod
    def quantize(self, layer: Layer) -> Quantized:
        """Return the new matrix."""

    @property
    def finer(self) -> Mode | None:
        """The same with smaller steps; None if there are none."""
        return None


@dataclass(frozen=True)
class Uniform(Mode):
    """A grid for each row, and a threshold (GPT-Zip, equations 1 to 6).

    Parameters
    ----------
    bits : int
        Of each code.
    sparsity : float
        Share of elements to set back to the base afterwards.
    """

    bits: int
    sparsity: float = 0.0

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """See `Mode.parameters`."""
        return {"mode": "paper", "bits": self.bits, "sparsity": self.sparsity}

    def quantize(self, layer: Layer) -> Quantized:
        """See `Mode.quantize`."""
        return uniform(layer.delta, layer.factor, self.bits, self.sparsity)

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: one bit more."""
        return Uniform(self.bits + 1, self.sparsity) if self.bits < MOST_BITS else None


@dataclass(frozen=True)
class EntropyCoded(Mode):
    """Unbounded codes whose zeros cost next to nothing.

    Parameters
    ----------
    multiple : float
        Mean step of a layer, in standard deviations of its delta.
    """

    multiple: float

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """See `Mode.parameters`."""
        return {"mode": "ec", "step": self.multiple}

    def quantize(self, layer: Layer) -> Quantized:
        """See `Mode.quantize`."""
        return _of_multiple(layer, self.multiple)

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: steps by the square root of 2, which takes about half a bit more."""
        return EntropyCoded(self.multiple / math.sqrt(2))


@dataclass(frozen=True)
class Rate(Mode):
    """Entropy-coded with the smallest step, the same multiple for all layers, that stays within a rate.

    Spending the bytes by what each layer loses, as a share of the energy of its outputs or of those of its delta, gave
    larger errors of the model at the same size (docs/decisions/016).

    Parameters
    ----------
    bits : float
        Stored bits of all layers that are quantized, by their number of elements.
    """

    bits: float
    _chosen: list[float] = field(default_factory=list, compare=False, repr=False)

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """See `Mode.parameters`."""
        return {"mode": "ec", "bits_per_parameter": self.bits, "step": self._chosen[0] if self._chosen else None}

    def prepare(self, layers: Callable[[], Iterator[Layer]]) -> None:
        """Search for the step.

        Raises
        ------
        InvalidInputError
            If even the largest step takes more.
        """

        def fits(multiple: float) -> bool:
            """Return whether all layers together stay within the rate."""
            sizes = [(_stored_bytes(layer, _of_multiple(layer, multiple)), layer.delta.base.size) for layer in layers()]
            return 8 * sum(size for size, _ in sizes) <= self.bits * sum(elements for _, elements in sizes)

        place = bisect_left(_MULTIPLES, True, key=fits)
        if place == len(_MULTIPLES):
            raise InvalidInputError(
                f"{self.bits:g} bits for each parameter are too few, even for what states the steps",
                hint="allow more bits, or leave small layers out: --tensors",
            )
        self._chosen[:] = [_MULTIPLES[place]]

    def quantize(self, layer: Layer) -> Quantized:
        """See `Mode.quantize`."""
        return _of_multiple(layer, self._chosen[0])

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: a quarter more bits; None if the smallest step stays within these already."""
        return None if self._chosen == [_MULTIPLES[0]] else Rate(1.25 * self.bits)


@dataclass(frozen=True)
class GptqTransform(Transform):
    """Quantizes what linear layers differ by from a base.

    Parameters
    ----------
    mode : Mode
        How.
    calibrated : Calibration or None
        Second moments of the inputs of layers: these are quantized, and nothing else. Without one, every matrix that is
        not small is, as if all inputs were alike.
    digest : ObjectId or None
        BLAKE3 of the file of calibration.
    """

    method: ClassVar[str] = "delta-gptq"

    mode: Mode
    calibrated: Calibration | None
    digest: ObjectId | None = None
    _counts: dict[str, int] = field(default_factory=lambda: {"elements": 0, "zeros": 0}, compare=False, repr=False)

    @property
    def calibration(self) -> ObjectId | None:  # type: ignore[override]  # here it is a setting
        """See `Transform.calibration`."""
        return self.digest

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """The settings, whether there was a calibration, and which share of the elements is that of the base."""
        share = self._counts["zeros"] / self._counts["elements"] if self._counts["elements"] else 0.0
        return {**self.mode.parameters, "calibrated": self.calibrated is not None, "realised_sparsity": share}

    @property
    def summary(self) -> str:
        """See `Transform.summary`."""
        settings = ", ".join(f"{key} {value}" for key, value in self.mode.parameters.items())
        return f"{self.method}: {settings}" + ("" if self.calibrated else ", uncalibrated")

    @property
    def finer(self) -> Transform | None:
        """See `Transform.finer`."""
        mode = self.mode.finer
        return None if mode is None else GptqTransform(mode, self.calibrated, self.digest)

    def prepare(self, tensors: Callable[[], Iterator[SourceTensor]]) -> None:
        """See `Transform.prepare`."""

        def layers() -> Iterator[Layer]:
            """Yield all that is quantized."""
            for tensor in tensors():
                if (layer := self._layer(tensor)) is not None:
                    yield layer

        self.mode.prepare(layers)

    def apply(self, tensor: SourceTensor) -> Made | None:
        """See `Transform.apply`; what is no linear layer stays as it is.

        Raises
        ------
        InvalidInputError
            If a layer has no counterpart in the base, holds a value that is not finite, or its calibration is no good.
        """
        layer = self._layer(tensor)
        if layer is None:
            return None
        made = self.mode.quantize(layer)
        if self._transposes(tensor):
            made = made.transposed()
        self._counts["elements"] += made.codes.size
        self._counts["zeros"] += int(np.count_nonzero(made.codes == 0))
        words: Bytes = np.ascontiguousarray(made.words).view(np.uint8).reshape(-1)
        loss = measured(tensor.words, words, tensor.spec.dtype)
        return Made(words, loss.largest, loss.relative, None, (StepDelta.of(made.rows, made.columns),))

    def _layer(self, tensor: SourceTensor) -> Layer | None:
        """Return the matrix that a tensor is, outputs in rows; None if it is not to be quantized."""
        name = self._calibrated_name(tensor)
        if self.calibrated is not None and name is None:
            return None
        shape, dtype = tensor.spec.shape, tensor.spec.dtype
        if self.calibrated is None and (
            len(shape) != 2 or tensor.base is None or min(shape) < _LEAST_SIDE or tensor.spec.words < _LEAST_ELEMENTS
        ):
            return None
        if dtype.name not in STEPPED:
            return None
        if len(shape) != 2 or tensor.base is None:
            raise InvalidInputError(
                f"{tensor.names[0]} has no matrix of the same shape and type in the base",
                hint="--base names the commit that the model was tuned from",
            )
        matrices = [part.view(f"<u{dtype.word_bytes}").reshape(shape) for part in (tensor.base, tensor.words)]
        if self._transposes(tensor):
            matrices = [np.ascontiguousarray(part.T) for part in matrices]
        try:
            delta = Delta(dtype, *matrices)
        except InvalidInputError as error:
            raise InvalidInputError(f"{tensor.names[0]}: {error.message}", hint=error.hint) from error
        return Layer(delta, self._hessian(name, matrices[0]))

    def _hessian(self, name: str | None, matrix: Words) -> Matrix | None:
        if self.calibrated is None or name is None:
            return None
        hessian = self.calibrated.hessian(name)
        if len(hessian) != matrix.shape[1]:
            raise InvalidInputError(
                f"the calibration says that {name} has {len(hessian)} inputs; it has {matrix.shape[1]}",
                hint="calibrate this model",
            )
        return hessian

    def _calibrated_name(self, tensor: SourceTensor) -> str | None:
        if self.calibrated is None:
            return None
        return next((name for name in tensor.names if name in self.calibrated.names), None)

    def _transposes(self, tensor: SourceTensor) -> bool:
        """Return whether inputs are in rows."""
        return self.calibrated is not None and self._calibrated_name(tensor) in self.calibrated.about.inputs_first


def _of_multiple(layer: Layer, multiple: float) -> Quantized:
    """Quantize with a mean step of so many standard deviations of the delta; a delta of nothing stays nothing."""
    deviation = float(layer.delta.values.std())
    return entropy_coded(layer.delta, layer.factor, multiple * deviation if deviation > 0 else 1.0)


def _stored_bytes(layer: Layer, made: Quantized) -> int:
    """Return what a layer takes, but for the few bytes of its envelope that do not depend on the step."""
    delta, codec = layer.delta, StepDelta.of(made.rows, made.columns)
    spec = TensorSpec(delta.dtype, delta.base.shape)
    words, base = (np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in (made.words, delta.base))
    frames = sum(
        len(codec.encode(words[place], [base[place]], frame)) for place, frame in frame_specs(spec, frame_words(spec))
    )
    return frames + sum(len(value) for value in codec.parameters.values() if isinstance(value, bytes))
