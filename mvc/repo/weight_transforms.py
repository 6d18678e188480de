"""Weights with zeros, and weights of 8 bits, as commits use them: both are stored as how far they lie from zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from mvc.codecs import Bytes, Codec, StepDelta
from mvc.errors import InvalidInputError
from mvc.lossy import measured
from mvc.lossy.calibration import Calibration
from mvc.lossy.gptq import gptq_factor
from mvc.lossy.sparse import sparsified
from mvc.objects.fields import Scalar
from mvc.repo.transforms import Made, SourceTensor, Transform
from mvc.types import ObjectId
from mvc.types.steps import (
    COLUMN_ONE,
    LARGEST_STEP,
    SMALLEST_STEP,
    STEPPED,
    finite,
    from_float32,
    step_of,
    stepped,
    to_float32,
)

__all__ = ["PruneTransform", "Quant8Transform"]

_LARGEST: Final = 127
"""Code of the largest weight of a row: of 8 bits with a sign, the one that is left over is not used."""


@dataclass(frozen=True)
class PruneTransform(Transform):
    """Sets a share of the weights of linear layers to zero, and changes the others to make up for it.

    Parameters
    ----------
    sparsity : float
        Share of zeros, above 0 and below 1.
    read : Calibration
        Of this model.
    digest : ObjectId or None
        Of the file of calibration.

    Raises
    ------
    InvalidInputError
        If the share is out of range.
    """

    method: ClassVar[str] = "prune"
    reads_bases: ClassVar[bool] = False
    on_zeros: ClassVar[bool] = True
    one_model: ClassVar[bool] = True

    sparsity: float
    read: Calibration
    digest: ObjectId | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise InvalidInputError(f"a sparsity of {self.sparsity:g} is not between 0 and 1")

    @property
    def calibration(self) -> ObjectId | None:  # type: ignore[override]  # here it is a setting
        """See `Transform.calibration`."""
        return self.digest

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """``sparsity`` and the digest of the texts."""
        return {"sparsity": self.sparsity, "texts": self.read.about.data, "samples": self.read.about.samples}

    @property
    def summary(self) -> str:
        """See `Transform.summary`."""
        return f"prune:{self.sparsity:g}"

    def apply(self, tensor: SourceTensor) -> Made | None:
        """See `Transform.apply`; what no linear layer is, or what is read as an embedding too, stays as it is."""
        name = next((name for name in tensor.names if name in self.read.names), None)
        if name is None or tensor.spec.dtype.name not in STEPPED or not self.read.embeddings.isdisjoint(tensor.names):
            return None
        first = name in self.read.about.inputs_first
        dtype = tensor.spec.dtype
        values = to_float32(dtype, tensor.words.view(f"<u{dtype.word_bytes}")).reshape(tensor.spec.shape)
        hessian = self.read.hessian(name)
        made = sparsified(values.T if first else values, gptq_factor(hessian), self.sparsity)
        array = np.ascontiguousarray(made.T if first else made, np.float32)
        with np.errstate(over="ignore"):
            words = from_float32(dtype, array.reshape(-1))
        if not finite(dtype, words).all():
            raise InvalidInputError(
                f"a new weight of {name} is not finite in {dtype.name}", hint="commit the model in another type"
            )
        return _made(tensor, words.view(np.uint8), ())


@dataclass(frozen=True)
class Quant8Transform(Transform):
    """Rounds the weights of matrices to 255 levels for each row, the largest of which is its largest weight."""

    method: ClassVar[str] = "quant8"
    reads_bases: ClassVar[bool] = False
    on_zeros: ClassVar[bool] = True

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """``bits``."""
        return {"bits": 8}

    @property
    def summary(self) -> str:
        """See `Transform.summary`."""
        return "quant8"

    def apply(self, tensor: SourceTensor) -> Made | None:
        """See `Transform.apply`; what is no matrix of floats of at most 32 bits, or not finite, stays as it is."""
        dtype, shape = tensor.spec.dtype, tensor.spec.shape
        if dtype.name not in STEPPED or len(shape) != 2 or not tensor.words.size:
            return None
        values = to_float32(dtype, tensor.words.view(f"<u{dtype.word_bytes}")).reshape(shape)
        if not np.isfinite(values).all():
            return None
        largest = np.abs(values).max(axis=1).astype(np.float64)
        rows = np.clip(largest / _LARGEST, SMALLEST_STEP, LARGEST_STEP).astype(np.float32)
        columns = np.array([COLUMN_ONE], np.uint8)
        steps = step_of(rows, columns)
        codes = np.clip(np.rint(values.astype(np.float64) / steps), -_LARGEST, _LARGEST).astype(np.int32)
        zeros = np.zeros(shape, f"<u{dtype.word_bytes}")
        words = np.ascontiguousarray(stepped(dtype, zeros, codes, steps)).reshape(-1).view(np.uint8)
        return _made(tensor, words, (StepDelta.of(rows, columns),))


def _made(tensor: SourceTensor, words: Bytes, codecs: tuple[Codec, ...]) -> Made:
    loss = measured(tensor.words, words, tensor.spec.dtype)
    return Made(words, loss.largest, loss.relative, None, codecs)
