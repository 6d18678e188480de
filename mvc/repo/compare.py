"""How far two tensors are apart: sums over frames, so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mvc.codecs import Bytes
from mvc.types import DType
from mvc.types.values import as_float64

__all__ = ["TensorDistance", "distance"]


@dataclass(frozen=True, slots=True)
class TensorDistance:
    """Statistics of two tensors of one dtype and shape, old and new.

    Parameters
    ----------
    changed_fraction : float
        Share of words whose bits differ.
    relative_l2 : float
        ``|new - old| / |old|``; infinite if the old tensor is zero and the new one is not.
    cosine : float
        Of the angle between them; NaN if one is zero.
    max_abs : float
        Largest ``|new - old|``.
    norm_old, norm_new : float
        Euclidean norms.
    """

    changed_fraction: float
    relative_l2: float
    cosine: float
    max_abs: float
    norm_old: float
    norm_new: float


def distance(dtype: DType, pairs: Iterable[tuple[Bytes, Bytes]]) -> TensorDistance | None:
    """Return the distance of two tensors that come in pairs of equal ranges, or None if their values have no meaning.

    Values are compared in float64; NaN and infinities make the sums NaN, as they should.

    Parameters
    ----------
    dtype : DType
        Element type of both.
    pairs : iterable of (Bytes, Bytes)
        Old and new bytes, range by range.
    """
    if dtype.kind == "packed":
        return None
    words = changed = 0
    squares = np.zeros(4)  # of the difference, of old, of new; and the inner product
    largest = 0.0
    with np.errstate(all="ignore"):
        for old, new in pairs:
            view = f"u{dtype.word_bytes}"
            changed += int(np.count_nonzero(old.view(view) != new.view(view)))
            words += old.size // dtype.word_bytes
            a, b = as_float64(dtype, old), as_float64(dtype, new)
            d = b - a
            squares += (d @ d, a @ a, b @ b, a @ b)
            largest = float(np.maximum(largest, np.max(np.abs(d), initial=0.0)))
    difference, norm_old, norm_new = (math.sqrt(value) for value in squares[:3])
    return TensorDistance(
        changed / words if words else 0.0,
        difference / norm_old if norm_old else (math.inf if difference else 0.0),
        float(squares[3]) / norm_old / norm_new if norm_old and norm_new else math.nan,
        largest,
        norm_old,
        norm_new,
    )
