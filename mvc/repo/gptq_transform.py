"""Delta-GPTQ as commits use it: linear layers become whole steps from their base, all else stays as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import Bytes, StepDelta, frame_specs, frame_words
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.calibration import Calibration, Matrix
from mvc.lossy.factors import Factors
from mvc.lossy.gptq import Delta, Factor, Quantized, entropy_coded, relative_output_error, unbiased, uniform
from mvc.objects.blob import MAX_DEPTH, Envelope, Reference
from mvc.objects.fields import Scalar
from mvc.repo.transforms import Made, Rest, SourceTensor, Transform
from mvc.types import ObjectId
from mvc.types.steps import STEPPED, to_float32

__all__ = ["EntropyCoded", "GptqTransform", "Layer", "Mode", "Uniform"]

_LEAST_ELEMENTS: Final = 4096
_LEAST_SIDE: Final = 64
"""Of a matrix that is quantized without a calibration: what is smaller is worth less than its error."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A matrix to quantize.

    Parameters
    ----------
    tensor : SourceTensor
        What it is in the commit.
    delta : Delta
        It and its base, outputs in rows.
    inputs_first : bool
        Whether the tensor has its inputs in rows.
    moments : callable or None
        Reads H of its inputs, if they were calibrated.
    factored : callable or None
        Returns the factor of H.
    """

    tensor: SourceTensor
    delta: Delta
    inputs_first: bool
    moments: Callable[[], Matrix] | None
    factored: Callable[[], Factor] | None

    @property
    def factor(self) -> Factor | None:
        """What feedback needs."""
        return self.factored() if self.factored else None

    @property
    def hessian(self) -> Matrix | None:
        """H of its inputs."""
        return self.moments() if self.moments else None

    def of_multiple(self, multiple: float) -> Quantized:
        """Quantize with a mean step of so many standard deviations of the delta; of nothing, nothing becomes."""
        deviation = float(self.delta.values.std())
        made = entropy_coded(self.delta, self.factor, multiple * deviation if deviation > 0 else 1.0)
        return unbiased(self.delta, made, self.hessian)

    def error(self, made: Quantized) -> float:
        """Return what the outputs of the layer lose, as `relative_output_error`."""
        return relative_output_error(self.delta, made.words, self.hessian)

    def as_stored(self, made: Quantized) -> Quantized:
        """Return the same with rows and columns as the tensor has them."""
        return made.transposed() if self.inputs_first else made

    def values(self, made: Quantized) -> dict[str, npt.NDArray[np.float32]]:
        """Return the new tensor under each of its names."""
        array = np.ascontiguousarray(to_float32(self.delta.dtype, self.as_stored(made).words))
        return dict.fromkeys(self.tensor.names, array)

    def stored_bytes(self, made: Quantized) -> int:
        """Return what the tensor takes at most beside those of the base: nothing if it is that of the base."""
        tensor, made = self.tensor, self.as_stored(made)
        assert tensor.base is not None, "a layer has one"
        if np.array_equal(tensor.words, tensor.base):
            return 0
        codec, words = StepDelta.of(made.rows, made.columns), _bytes(made)
        table = tuple(
            (len(codec.encode(words[place], [tensor.base[place]], frame)), 0)
            for place, frame in frame_specs(tensor.spec, frame_words(tensor.spec))
        )
        base = Reference("base", tensor.id, MAX_DEPTH - 1)  # at most as long as the one that will be there
        references, parameters = (base,), codec.parameters
        size = frame_words(tensor.spec)
        return Envelope("tensor", tensor.id, tensor.spec, codec.name, parameters, references, size, table).stored_bytes


class Mode(ABC):
    """How codes are chosen."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Scalar]:
        """What a commit records."""

    def prepare(self, layers: Callable[[], Iterator[Layer]], rest: Rest) -> None:  # noqa: B027 - most need not
        """Look at all layers first."""

    @abstractmethod
    def quantize(self, layer: Layer) -> Quantized:
        """Return the new matrix."""


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
        return layer.of_multiple(self.multiple)


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
    _factors: Factors = field(default_factory=Factors, compare=False, repr=False)
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

    def prepare(self, tensors: Callable[[], Iterator[SourceTensor]], rest: Rest) -> None:
        """See `Transform.prepare`."""

        def layers() -> Iterator[Layer]:
            """Yield all that is quantized."""
            for tensor in tensors():
                if (layer := self._layer(tensor)) is not None:
                    yield layer

        self.mode.prepare(layers, rest)

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
        made = layer.as_stored(self.mode.quantize(layer))
        self._counts["elements"] += made.codes.size
        self._counts["zeros"] += int(np.count_nonzero(made.codes == 0))
        words = _bytes(made)
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
        if inputs_first := self.calibrated is not None and name in self.calibrated.about.inputs_first:
            matrices = [np.ascontiguousarray(part.T) for part in matrices]
        try:
            delta = Delta(dtype, *matrices)
        except InvalidInputError as error:
            raise InvalidInputError(f"{tensor.names[0]}: {error.message}", hint=error.hint) from error
        if self.calibrated is None or name is None:
            return Layer(tensor, delta, inputs_first, None, None)
        moments = partial(_hessian, self.calibrated, name, matrices[0].shape[1])
        return Layer(tensor, delta, inputs_first, moments, partial(self._factors.of, name, moments))

    def _calibrated_name(self, tensor: SourceTensor) -> str | None:
        if self.calibrated is None:
            return None
        return next((name for name in tensor.names if name in self.calibrated.names), None)


def _hessian(calibrated: Calibration, name: str, inputs: int) -> Matrix:
    hessian = calibrated.hessian(name)
    if len(hessian) != inputs:
        raise InvalidInputError(
            f"the calibration says that {name} has {len(hessian)} inputs; it has {inputs}",
            hint="calibrate this model",
        )
    return hessian


def _bytes(made: Quantized) -> Bytes:
    words: Bytes = np.ascontiguousarray(made.words).view(np.uint8).reshape(-1)
    return words
