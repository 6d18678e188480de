"""Delta-GPTQ as commits use it: linear layers and embeddings become whole steps from their base, all else stays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import Bytes, StepDelta, frame_specs, frame_words
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.calibration import Calibration, Matrix, Vector
from mvc.lossy.factors import Factors
from mvc.lossy.gptq import (
    MOST_BITS,
    Delta,
    Factor,
    Quantized,
    entropy_coded,
    relative_output_error,
    unbiased,
    uniform,
)
from mvc.objects.blob import MAX_DEPTH, Envelope, Reference
from mvc.objects.fields import Scalar
from mvc.repo.plan import SMALL_BYTES
from mvc.repo.transforms import Made, Rest, SourceTensor, Transform
from mvc.types import ObjectId
from mvc.types.steps import STEPPED, to_float32

__all__ = ["EntropyCoded", "GptqTransform", "Layer", "Mode", "Uniform"]

_LEAST_ELEMENTS: Final = 4096
_LEAST_SIDE: Final = 64
"""Of an embedding, and of a matrix that is quantized without a calibration: what is smaller is worth less than its
error."""

_EMBEDDING_SHARE: Final = 3
"""By which the step of an embedding is finer than that of a linear layer: no other input makes good what a row loses
(docs/decisions/020)."""


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
        Reads H of its inputs, if it is a linear layer and they were calibrated.
    factored : callable or None
        Returns the factor of H.
    reads : Vector or None
        The diagonal of H of its rows, if it is an embedding; of one that is a head too, there are all three.
    """

    tensor: SourceTensor
    delta: Delta
    inputs_first: bool
    moments: Callable[[], Matrix] | None
    factored: Callable[[], Factor] | None
    reads: Vector | None = None

    @property
    def factor(self) -> Factor | None:
        """What feedback needs."""
        return self.factored() if self.factored else None

    @property
    def hessian(self) -> Matrix | None:
        """H of its inputs."""
        return self.moments() if self.moments else None

    @property
    def unit(self) -> float:
        """What steps are multiples of: the deviation of the delta, of an embedding a share of that of what is read."""
        if self.reads is None:
            return float(self.delta.values.std())
        squares = (self.delta.values**2).mean(axis=1)
        mean = float(np.average(squares, weights=self.reads)) if self.reads.any() else 0.0
        return math.sqrt(mean or float(squares.mean())) / _EMBEDDING_SHARE

    def of_multiple(self, multiple: float) -> Quantized:
        """Quantize with a mean step of so many units; a delta of nothing stays nothing."""
        unit = self.unit
        made = entropy_coded(self.delta, self.factor, multiple * unit if unit > 0 else 1.0)
        return made if self.reads is not None else unbiased(self.delta, made, self.hessian)

    def error(self, made: Quantized) -> float:
        """Return what the outputs of the layer lose, as `relative_output_error`."""
        if self.reads is None:
            return relative_output_error(self.delta, made.words, self.hessian)
        whole = self.delta.values
        lost, all_of_it = (
            float(self.reads @ (part**2).sum(axis=1)) for part in (whole - self.delta.added(made.words), whole)
        )
        return lost / all_of_it if all_of_it > 0 else 0.0

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

    embeddings: ClassVar[bool] = True
    """Whether embeddings are quantized."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Scalar]:
        """What a commit records."""

    def prepare(self, layers: Callable[[], Iterator[Layer]], rest: Rest) -> None:  # noqa: B027 - most need not
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
        return layer.of_multiple(self.multiple)

    @property
    def finer(self) -> Mode | None:
        """See `Mode.finer`: steps by the square root of 2, which takes about half a bit more."""
        return EntropyCoded(self.multiple / math.sqrt(2))


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

    @property
    def finer(self) -> Transform | None:
        """See `Transform.finer`."""
        mode = self.mode.finer
        return None if mode is None else GptqTransform(mode, self.calibrated, self.digest, self._factors)

    def prepare(self, tensors: Callable[[], Iterator[SourceTensor]], rest: Rest) -> None:
        """See `Transform.prepare`."""

        def layers() -> Iterator[Layer]:
            """Yield all that is quantized."""
            for tensor in tensors():
                if (layer := self._layer(tensor)) is not None:
                    yield layer

        self.mode.prepare(layers, rest)

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
        made = layer.as_stored(self.mode.quantize(layer))
        self._counts["elements"] += made.codes.size
        self._counts["zeros"] += int(np.count_nonzero(made.codes == 0))
        words = _bytes(made)
        loss = measured(tensor.words, words, tensor.spec.dtype)
        return Made(words, loss.largest, loss.relative, None, (StepDelta.of(made.rows, made.columns),))

    def _layer(self, tensor: SourceTensor) -> Layer | None:
        """Return the matrix that a tensor is, outputs in rows; None if it is not to be quantized."""
        if tensor.spec.dtype.name not in STEPPED or tensor.spec.nbytes < SMALL_BYTES:  # which has no base to be near to
            return None
        if self.calibrated is None:
            delta = self._delta(tensor, inputs_first=False) if _is_matrix(tensor, _LEAST_SIDE) else None
            return None if delta is None else Layer(tensor, delta, False, None, None)
        head = _first(tensor.names, self.calibrated.names)
        embedding = _first(tensor.names, self.calibrated.embeddings)
        if embedding is None and head is None:
            return None
        if embedding is not None and not (self.mode.embeddings and _is_matrix(tensor)):
            return None
        return self._calibrated_layer(self.calibrated, tensor, head, embedding)

    def _calibrated_layer(
        self, calibrated: Calibration, tensor: SourceTensor, head: str | None, embedding: str | None
    ) -> Layer:
        """Return a linear layer, an embedding, or what is both."""
        inputs_first = any(name in calibrated.about.inputs_first for name in tensor.names)
        delta = self._delta(tensor, inputs_first=inputs_first)
        rows, inputs = delta.base.shape
        reads = None
        if embedding is not None:
            reads = _fitting(calibrated.diagonal(embedding), rows, f"embedding {embedding} has", "rows")
        if head is None:
            return Layer(tensor, delta, inputs_first, None, None, reads)

        def moments() -> Matrix:
            """Read H."""
            return _fitting(calibrated.hessian(head), inputs, f"{head} has", "inputs")

        def as_head() -> Matrix:
            """Return H for feedback: rows of a head that is an embedding are read as often as they are on the mean."""
            if reads is None:
                return moments()
            return moments() + float(reads.mean(dtype=np.float64)) * np.eye(inputs, dtype=np.float32)

        return Layer(tensor, delta, inputs_first, moments, partial(self._factors.of, head, as_head), reads)

    @staticmethod
    def _delta(tensor: SourceTensor, *, inputs_first: bool) -> Delta:
        """Return what a tensor adds to its base, outputs in rows."""
        shape, dtype = tensor.spec.shape, tensor.spec.dtype
        if len(shape) != 2 or tensor.base is None:
            raise InvalidInputError(
                f"{tensor.names[0]} has no matrix of the same shape and type in the base",
                hint="--base names the commit that the model was tuned from",
            )
        matrices = [part.view(f"<u{dtype.word_bytes}").reshape(shape) for part in (tensor.base, tensor.words)]
        if inputs_first:
            matrices = [np.ascontiguousarray(part.T) for part in matrices]
        try:
            return Delta(dtype, *matrices)
        except InvalidInputError as error:
            raise InvalidInputError(f"{tensor.names[0]}: {error.message}", hint=error.hint) from error


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


def _bytes(made: Quantized) -> Bytes:
    words: Bytes = np.ascontiguousarray(made.words).view(np.uint8).reshape(-1)
    return words
