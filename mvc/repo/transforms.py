"""Lossy methods as commits use them: a tensor, and maybe its base, become another tensor and the codecs that fit it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from mvc.codecs import Bytes, Codec, Grid, GridDelta
from mvc.lossy import Precision, Squares, grid_of, rounded, squares
from mvc.objects.fields import Scalar
from mvc.types import ObjectId, TensorSpec
from mvc.types.values import REALS

__all__ = ["Made", "PrecisionTransform", "Rest", "SourceTensor", "Transform", "bound_of", "codecs_of"]

Rest: TypeAlias = Callable[[Collection[ObjectId]], int]
"""Given the tensors of the source that change, returns the stored bytes of those that do not, but for the base's."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceTensor:
    """A tensor of the commit that is compressed.

    Parameters
    ----------
    id : ObjectId
        Of its content.
    names : tuple of str
        What the commit calls it.
    spec : TensorSpec
        As it is stored.
    words : Bytes
        Its elements, little-endian.
    base : Bytes or None
        Those of the tensor of the same name, shape and type in the base.
    """

    id: ObjectId
    names: tuple[str, ...]
    spec: TensorSpec
    words: Bytes
    base: Bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a method made of a tensor.

    Parameters
    ----------
    words : Bytes
        The new elements, as many as before.
    largest, relative : float
        As in `DerivedTensor`.
    bound : float or None
        What `largest` may not exceed.
    codecs : tuple of Codec
        Those that store it in few bytes.
    again : callable, optional
        Given some elements of the source, makes those that stand for them: for a method that changes each by itself.
    """

    words: Bytes
    largest: float
    relative: float
    bound: float | None
    codecs: tuple[Codec, ...]
    again: Callable[[Bytes], Bytes] | None = None


class Transform(ABC):
    """A method with its settings."""

    method: ClassVar[str]
    """Its name in a commit."""

    reads_bases: ClassVar[bool] = True
    """Whether it looks at tensors of the base."""

    on_zeros: ClassVar[bool] = False
    """Whether what it makes of matrices is best told as how far it lies from zeros."""

    one_model: ClassVar[bool] = False
    """Whether it knows one model, so that files in directories below are not for it."""

    calibration: ObjectId | None = None
    """BLAKE3 of the file of calibration, if there is one."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Scalar]:
        """What a commit records of the settings."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The same in few words, for a message."""

    @property
    def finer(self) -> Transform | None:
        """The same method with a setting that loses less; None if there is none."""
        return None

    def prepare(self, tensors: Callable[[], Iterator[SourceTensor]], rest: Rest) -> None:  # noqa: B027 - most need not
        """Look at all tensors before any is changed, as often as need be; by default at none.

        Parameters
        ----------
        tensors : callable
            Reads them.
        rest : Rest
            Tells the size of what stays.

        Raises
        ------
        InvalidInputError
            If the method cannot be applied to them.
        """

    @abstractmethod
    def apply(self, tensor: SourceTensor) -> Made | None:
        """Return what becomes of a tensor; None if it stays as it is.

        Raises
        ------
        InvalidInputError
            If the method cannot be applied to what it is meant for.
        """


def bound_of(grid: int | None) -> float | None:
    """Return what no element of a tensor that was rounded to a grid moves by more than; None without a grid."""
    return None if grid is None else 2.0 ** -(grid + 1)


def codecs_of(grid: int | None) -> tuple[Codec, ...]:
    """Return the codecs for a tensor on a grid; none without one."""
    return () if grid is None else (Grid(grid), GridDelta(grid))


@dataclass(frozen=True)
class PrecisionTransform(Transform):
    """Rounds real numbers to some binary places or bits of the mantissa.

    Parameters
    ----------
    precision : Precision
        How.
    """

    method: ClassVar[str] = "precision"
    reads_bases: ClassVar[bool] = False

    precision: Precision

    @property
    def parameters(self) -> Mapping[str, Scalar]:
        """``precision``, as people write it."""
        return {"precision": str(self.precision)}

    @property
    def summary(self) -> str:
        """See `Transform.summary`."""
        return str(self.precision)

    @property
    def finer(self) -> Transform | None:
        """See `Transform.finer`: two bits more."""
        finer = self.precision.finer
        return None if finer is None else PrecisionTransform(finer)

    def apply(self, tensor: SourceTensor) -> Made | None:
        """See `Transform.apply`; tensors of integers, and of floats below 16 bits, stay as they are."""
        dtype = tensor.spec.dtype
        if dtype.name not in REALS or not tensor.words.size:
            return None
        scale = squares(tensor.words, dtype) if self.precision.relative else Squares()
        grid = grid_of(self.precision, dtype, scale)
        words, loss = rounded(self.precision, tensor.words, dtype, grid)

        def again(part: Bytes) -> Bytes:
            """Round a part in the same way."""
            return rounded(self.precision, part, dtype, grid)[0]

        return Made(words, loss.largest, loss.relative, bound_of(grid), codecs_of(grid), again)
