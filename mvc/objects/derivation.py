"""Derivations: what a commit says of tensors that stand for others, with a loss (spec-v1, section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import Value
from mvc.objects.fields import Scalar, array, integer, oid, record, scalars, text
from mvc.types import ObjectId, raw_id

__all__ = ["Derivation", "DerivedTensor"]

_FIELDS: Final = frozenset({"source", "base", "method", "parameters", "calibration", "tensors"})
_MAX_METHOD: Final = 64
_MAX_BYTES: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class DerivedTensor:
    """A tensor, and what it stands for.

    Parameters
    ----------
    source, id : ObjectId
        The tensor that was changed, and what it was changed to.
    largest : float
        Largest absolute difference of two elements.
    relative : float
        Root of the sum of squared differences, over that of the squared elements of the source.
    bound : float or None
        What `largest` may not exceed.
    stored_bytes : int
        Of the blob when the commit was made.

    Raises
    ------
    InvalidInputError
        If an error is not finite, negative, or beyond its bound.
    """

    source: ObjectId
    id: ObjectId
    largest: float
    relative: float
    bound: float | None
    stored_bytes: int

    def __post_init__(self) -> None:
        for number in (self.largest, self.relative, 0.0 if self.bound is None else self.bound):
            if not (math.isfinite(number) and number >= 0):
                raise InvalidInputError(f"the error of tensor {self.id[:12]} is {number}")
        if self.bound is not None and self.largest > self.bound:
            raise InvalidInputError(
                f"the error of tensor {self.id[:12]} is {self.largest}, beyond its bound {self.bound}"
            )

    @property
    def value(self) -> Value:
        """The canonical value."""
        return [raw_id(self.source), raw_id(self.id), self.largest, self.relative, self.bound, self.stored_bytes]

    @classmethod
    def read(cls, value: Value) -> DerivedTensor:
        """Return what a canonical value says; `MalformedError` if it is not of that form."""
        source, id_, largest, relative, bound, stored = array(value, "derived tensor", (6,))
        return cls(
            oid(source, "source tensor"),
            oid(id_, "derived tensor"),
            _number(largest, "largest error"),
            _number(relative, "relative error"),
            None if bound is None else _number(bound, "bound"),
            integer(stored, "stored bytes", 0, _MAX_BYTES),
        )


@dataclass(frozen=True)
class Derivation:
    """How the tensors of a commit were made from others.

    Parameters
    ----------
    source : ObjectId or None
        The commit that they were made from; None if they were never in one.
    base : ObjectId or None
        The commit that they were made to be near to.
    method : str
        ``precision`` or ``delta-gptq``.
    parameters : mapping of str to scalar
        What the method was told.
    calibration : ObjectId or None
        BLAKE3 of the file of calibration.
    tensors : tuple of DerivedTensor
        Those that were changed, sorted by id.

    Raises
    ------
    InvalidInputError
        If the method has no name, or tensors are out of order.
    """

    source: ObjectId | None
    base: ObjectId | None
    method: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    calibration: ObjectId | None = None
    tensors: tuple[DerivedTensor, ...] = ()

    def __post_init__(self) -> None:
        if not (0 < len(self.method) <= _MAX_METHOD and self.method.isascii()):
            raise InvalidInputError(f"{self.method!r:.80} is not the name of a method")
        keys = [(tensor.id, tensor.source) for tensor in self.tensors]
        if any(one >= other for one, other in pairwise(keys)):
            raise InvalidInputError("derived tensors are not sorted by id, or one occurs twice")

    @property
    def value(self) -> Value:
        """The canonical value."""
        return {
            "source": _raw(self.source),
            "base": _raw(self.base),
            "method": self.method,
            "parameters": dict(self.parameters),
            "calibration": _raw(self.calibration),
            "tensors": [tensor.value for tensor in self.tensors],
        }

    @classmethod
    def read(cls, value: Value) -> Derivation:
        """Return what a canonical value says; `MalformedError` or `InvalidInputError` if it cannot."""
        fields = record(value, _FIELDS, "derivation")
        return cls(
            _optional(fields["source"], "source"),
            _optional(fields["base"], "base"),
            text(fields["method"], "method", _MAX_METHOD),
            scalars(fields["parameters"], "parameters"),
            _optional(fields["calibration"], "calibration"),
            tuple(DerivedTensor.read(item) for item in array(fields["tensors"], "derived tensors")),
        )


def _raw(value: ObjectId | None) -> bytes | None:
    return None if value is None else raw_id(value)


def _optional(value: Value, noun: str) -> ObjectId | None:
    return None if value is None else oid(value, noun)


def _number(value: Value, noun: str) -> float:
    if not isinstance(value, float):
        raise MalformedError(f"{noun} is not a float")
    return value
