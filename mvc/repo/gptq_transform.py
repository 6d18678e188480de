"""Delta-GPTQ as commits use it: linear layers become whole steps from their base, all else stays as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from mvc.codecs import Bytes, StepDelta, frame_specs, frame_words
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.allocate import Point, within_size
from mvc.lossy.calibration import Calibration, Matrix
from mvc.lossy.gptq import Delta, Factor, Quantized, entropy_coded, gptq_factor, output_energy, uniform
from mvc.objects.fields import Scalar
from mvc.repo.transforms import Made, SourceTensor, Transform
from mvc.types import ObjectId, TensorSpec
from mvc.types.steps import STEPPED, Words

__all__ = ["EntropyCoded", "GptqTransform", "Layer", "Mode", "Rate", "Uniform"]

_LEAST_ELEMENTS: Final = 4096
_LEAST_SIDE: Final = 64
"""Of a matrix that is quantized without a calibration: what is smaller is worth less than its error."""

_MULTIPLES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""Steps to choose from for a rate, in standard deviations of the delta: from 2 bits to nearly none."""


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

    def prepare(self, layers: Callable[[], Iterator[tuple[ObjectId, Layer]]]) -> None:  # noqa: B027 - most need not
        """Look at all layers first."""

    @abstractmethod
    def quantize(self, oid: ObjectId, layer: Layer) -> Quantized:
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

    def quantize(self, oid: ObjectId, layer: Layer) -> Quantized:  # noqa: ARG002
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

    def quantize(self, oid: ObjectId, layer: Layer) -> Quantized:  # noqa: ARG002
        """See `Mode.quantize`."""
        return _of_multiple(layer, layer.factor, self.multiple)


@dataclass(frozen=True)
class Rate(Mode):
    """Entropy-coded within a number of bits for each parameter, which are spent where they lower the error most.

    The error of a layer is the share of the energy of its outputs that is lost; what layers lose is added up.

    Parameters
    ----------
    bits : float
        Stored bits of all layers that are quantized, by their number of elements.
    """

    bits: float
    _chosen: dict[ObjectId, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """See `Mode.parameters`."""
        return {"mode": "ec", "bits_per_parameter": self.bits}

    def prepare(self, layers: Callable[[], Iterator[tuple[ObjectId, Layer]]]) -> None:
        """Try every step on every layer, and choose one for each.

        Raises
        ------
        InvalidInputError
            If the rate cannot be reached.
        """
        ids, points, elements = [], [], 0
        for oid, layer in layers():
            factor = layer.factor
            ids.append(oid)
            points.append([_point(layer, _of_multiple(layer, factor, multiple)) for multiple in _MULTIPLES])
            elements += layer.delta.base.size
        if ids:
            found = within_size(points, self.bits * elements / 8)
            self._chosen.update({oid: _MULTIPLES[k] for oid, k in zip(ids, found.chosen, strict=True)})

    def quantize(self, oid: ObjectId, layer: Layer) -> Quantized:
        """See `Mode.quantize`."""
        return _of_multiple(layer, layer.factor, self._chosen[oid])


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

    def prepare(self, tensors: Callable[[], Iterator[SourceTensor]]) -> None:
        """See `Transform.prepare`."""

        def layers() -> Iterator[tuple[ObjectId, Layer]]:
            """Yield all that is quantized."""
            for tensor in tensors():
                if (layer := self._layer(tensor)) is not None:
                    yield tensor.id, layer

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
        made = self.mode.quantize(tensor.id, layer)
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


def _of_multiple(layer: Layer, factor: Factor | None, multiple: float) -> Quantized:
    """Quantize with a mean step of so many standard deviations of the delta; a delta of nothing stays nothing."""
    deviation = float(layer.delta.values.std())
    return entropy_coded(layer.delta, factor, multiple * deviation if deviation > 0 else 1.0)


def _point(layer: Layer, made: Quantized) -> Point:
    """Return what a layer takes, and which share of the energy of its outputs is lost."""
    delta = layer.delta
    codec = StepDelta.of(made.rows, made.columns)
    spec = TensorSpec(delta.dtype, delta.base.shape)
    words, base = (np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in (made.words, delta.base))
    frames = sum(
        len(codec.encode(words[place], [base[place]], frame)) for place, frame in frame_specs(spec, frame_words(spec))
    )
    lost = output_energy(delta.added(delta.target) - delta.added(made.words), layer.hessian)
    whole = output_energy(delta.total, layer.hessian)
    return Point(frames + len(codec.rows) + len(codec.columns), lost / whole if whole > 0 else 0.0)
