"""Delta-GPTQ as commits use it: linear layers and embeddings become whole steps from their base, all else stays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from mvc.codecs import Bytes, StepDelta, frame_specs, frame_words
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.calibration import Calibration, Matrix, Vector
from mvc.lossy.gptq import MOST_BITS, Delta, Factor, Quantized, entropy_coded, gptq_factor, uniform
from mvc.objects.fields import Scalar
from mvc.repo.transforms import Made, SourceTensor, Transform
from mvc.types import ObjectId, TensorSpec
from mvc.types.steps import STEPPED

__all__ = ["EntropyCoded", "GptqTransform", "Layer", "Mode", "Rate", "Uniform"]

_LEAST_ELEMENTS: Final = 4096
_LEAST_SIDE: Final = 64
"""Of an embedding, and of a matrix that is quantized without a calibration: what is smaller is worth less than its
error."""

_EMBEDDING_SHARE: Final = 3
"""By which the step of an embedding is finer than that of a linear layer: no other input makes good what a row loses
(docs/decisions/020)."""

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
        Of its inputs, if it is a linear layer and they were calibrated.
    reads : Vector or None
        The diagonal of H of its rows, if it is an embedding; of one that is a head too, there are both.
    """

    delta: Delta
    hessian: Matrix | None
    reads: Vector | None = None

    @property
    def factor(self) -> Factor | None:
        """What feedback needs. A head that is an embedding has its rows read as often as they are on the mean."""
        if self.hessian is None:
            return None
        return gptq_factor(self.hessian + (0 if self.reads is None else self.reads.mean() * np.eye(len(self.hessian))))

    @property
    def unit(self) -> float:
        """What steps are multiples of: the deviation of the delta, of an embedding a share of that of what is read."""
        if self.reads is None:
            return float(self.delta.values.std())
        squares = (self.delta.values**2).mean(axis=1)
        mean = float(np.average(squares, weights=self.reads)) if self.reads.any() else 0.0
        return math.sqrt(mean or float(squares.mean())) / _EMBEDDING_SHARE


class Mode(ABC):
    """How codes are chosen."""

    embeddings: ClassVar[bool] = True
    """Whether embeddings are quantized."""

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

    embeddings: ClassVar[bool] = False

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
        Mean step of a layer, in its `Layer.unit`.
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
        Stored bits of all linear layers that are quantized, by their number of elements. Embeddings take the same
        multiple, and count only if there is nothing else.
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
        has_linear = any(layer.reads is None for layer in layers())

        def rated() -> Iterator[Layer]:
            """Yield the layers that count."""
            return (layer for layer in layers() if layer.reads is None or not has_linear)

        def fits(multiple: float) -> bool:
            """Return whether all layers together stay within the rate."""
            sizes = [(_stored_bytes(layer, _of_multiple(layer, multiple)), layer.delta.base.size) for layer in rated()]
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
    """Quantizes what linear layers and embeddings differ by from a base.

    Parameters
    ----------
    mode : Mode
        How.
    calibrated : Calibration or None
        Second moments of the inputs of layers: these are quantized, and nothing else, embeddings if the mode does
        so and they are not small. Without one, every matrix that is not small is, as if all inputs were alike.
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
        """See `Transform.apply`; what is neither linear layer nor embedding stays as it is.

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
        if tensor.spec.dtype.name not in STEPPED:
            return None
        if self.calibrated is None:
            return Layer(self._delta(tensor), None) if _is_matrix(tensor, _LEAST_SIDE) else None
        head = _first(tensor.names, self.calibrated.names)
        embedding = _first(tensor.names, self.calibrated.embeddings)
        if embedding is None and head is None:
            return None
        if embedding is not None and not (self.mode.embeddings and _is_matrix(tensor)):
            return None
        delta = self._delta(tensor)
        rows, inputs = delta.base.shape
        return Layer(
            delta,
            None if head is None else _fitting(self.calibrated.hessian(head), inputs, f"{head} has", "inputs"),
            None
            if embedding is None
            else _fitting(self.calibrated.diagonal(embedding), rows, f"embedding {embedding} has", "rows"),
        )

    def _delta(self, tensor: SourceTensor) -> Delta:
        """Return what a tensor adds to its base, outputs in rows."""
        shape, dtype = tensor.spec.shape, tensor.spec.dtype
        if len(shape) != 2 or tensor.base is None:
            raise InvalidInputError(
                f"{tensor.names[0]} has no matrix of the same shape and type in the base",
                hint="--base names the commit that the model was tuned from",
            )
        matrices = [part.view(f"<u{dtype.word_bytes}").reshape(shape) for part in (tensor.base, tensor.words)]
        if self._transposes(tensor):
            matrices = [np.ascontiguousarray(part.T) for part in matrices]
        try:
            return Delta(dtype, *matrices)
        except InvalidInputError as error:
            raise InvalidInputError(f"{tensor.names[0]}: {error.message}", hint=error.hint) from error

    def _transposes(self, tensor: SourceTensor) -> bool:
        """Return whether inputs are in rows."""
        return self.calibrated is not None and any(name in self.calibrated.about.inputs_first for name in tensor.names)


def _first(names: Iterable[str], known: Collection[str]) -> str | None:
    """Return the first of some names that is known."""
    return next((name for name in names if name in known), None)


def _is_matrix(tensor: SourceTensor, least_side: int = 1) -> bool:
    """Return whether a tensor is a matrix with a base, and not small."""
    shape = tensor.spec.shape
    return (
        len(shape) == 2
        and tensor.base is not None
        and min(shape) >= least_side
        and tensor.spec.words >= _LEAST_ELEMENTS
    )


def _fitting(moments: Matrix, size: int, whose: str, what: str) -> Matrix:
    """Return moments, if they are of so many inputs or rows."""
    if len(moments) != size:
        raise InvalidInputError(
            f"the calibration says that {whose} {len(moments)} {what}; it has {size}", hint="calibrate this model"
        )
    return moments


def _of_multiple(layer: Layer, multiple: float) -> Quantized:
    """Quantize with a mean step of so many units; a delta of nothing stays nothing."""
    unit = layer.unit
    return entropy_coded(layer.delta, layer.factor, multiple * unit if unit > 0 else 1.0)


def _stored_bytes(layer: Layer, made: Quantized) -> int:
    """Return what a layer takes, but for the few bytes of its envelope that do not depend on the step."""
    delta, codec = layer.delta, StepDelta.of(made.rows, made.columns)
    spec = TensorSpec(delta.dtype, delta.base.shape)
    words, base = (np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in (made.words, delta.base))
    frames = sum(
        len(codec.encode(words[place], [base[place]], frame)) for place, frame in frame_specs(spec, frame_words(spec))
    )
    return frames + sum(len(value) for value in codec.parameters.values() if isinstance(value, bytes))
