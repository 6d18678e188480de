"""Delta-GPTQ: the difference between two weights as whole steps that hardly change the outputs of their layer.

GPTQ (Frantar et al. 2022, arXiv 2210.17323, algorithm 1) on the delta to a base (GPT-Zip, Isik et al. 2023). Every
matrix here has its outputs in rows and its inputs in columns. The feedback uses BLAS, so two machines may choose
different codes; what codes mean is `mvc.types.steps`, and that is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.types import DType
from mvc.types.steps import (
    COLUMN_ONE,
    LARGEST_CODE,
    LARGEST_STEP,
    SMALLEST_STEP,
    Codes,
    Columns,
    Floats,
    Words,
    column_factors,
    finite,
    step_of,
    stepped,
    to_float32,
)

__all__ = [
    "MOST_BITS",
    "Delta",
    "Factor",
    "Quantized",
    "bits_per_parameter",
    "entropy_coded",
    "gptq_factor",
    "relative_output_error",
    "unbiased",
    "uniform",
    "without_smallest",
]

Doubles = npt.NDArray[np.float64]

MOST_BITS: Final = 16
"""Of a code of a grid: with more, codes would be as wide as the halves that they stand for."""

_BLOCK: Final = 128
"""Columns whose feedback is applied at once (the paper's); larger blocks do more of the work column by column."""

_DAMPINGS: Final = (0.01, 0.1, 1.0)
"""Shares of the mean of the diagonal that are added to it, one tried after the other; the first is the paper's."""

_ROUNDING: Final = 0.38
"""A code is the magnitude plus this, rounded down: values that are dearer to store must gain more than half a step."""

_MOST_FACTOR: Final = 16
"""Quarters of a power of two by which the step of a column may differ from the mean: a factor of 16 either way. An
eighth would take another bit for each column."""

_MOST_GAIN: Final = 2.0
"""By which steps grow at most, so that no bias is left: beyond, a layer would gain more error than its delta has."""

_CONTEXTS: Final = 16
"""Groups of columns, alike in the size of their codes, whose entropies are counted apart."""


@dataclass(frozen=True)
class Delta:
    """A tensor and the base that it is stored against, as matrices.

    Parameters
    ----------
    dtype : DType
        F16, BF16 or F32.
    base, target : Words, shape (outputs, inputs)
        Of the base and of the tensor; all finite.

    Raises
    ------
    InvalidInputError
        If the shapes are not those of one matrix, or a value is not finite.
    """

    dtype: DType
    base: Words
    target: Words

    def __post_init__(self) -> None:
        if self.base.shape != self.target.shape or self.base.ndim != 2 or not self.base.size:
            raise InvalidInputError(f"shapes {self.base.shape} and {self.target.shape} are not those of one matrix")
        if not (finite(self.dtype, self.base) & finite(self.dtype, self.target)).all():
            raise InvalidInputError("base or target holds a value that is not finite", hint="store it without loss")

    @property
    def values(self) -> Doubles:
        """What the tensor adds to its base, shape (outputs, inputs)."""
        return self.added(self.target)

    def added(self, words: Words) -> Doubles:
        """Return what other words of the same matrix add to the base."""
        return _difference(self.dtype, words, self.base)


def _difference(dtype: DType, words: Words, base: Words) -> Doubles:
    """Return the values of `words` less those of `base`."""
    values: Doubles = to_float32(dtype, words).astype(np.float64)
    values -= to_float32(dtype, base)
    return values


@dataclass(frozen=True)
class Quantized:
    """A new tensor that lies whole steps from the base.

    Parameters
    ----------
    codes : Codes, shape (outputs, inputs)
        How many steps.
    rows : Floats, shape (outputs,) or (1,)
        Step of each row, or of all.
    columns : Columns, shape (inputs,) or (1,)
        Factor of each column, or of all, as `column_factors` reads it.
    words : Words, shape (outputs, inputs)
        The new tensor.
    """

    codes: Codes
    rows: Floats
    columns: Columns
    words: Words

    @property
    def sparsity(self) -> float:
        """Share of elements that are those of the base."""
        return float((self.codes == 0).mean())

    def transposed(self) -> Quantized:
        """Return the same for a weight that has its inputs in rows, as GPT-2's.

        Raises
        ------
        InvalidInputError
            If every output has a step of its own, which `step-delta` keeps for rows only.
        """
        if len(self.rows) > 1:
            raise InvalidInputError(
                "a grid for each output cannot be stored for a weight that has its inputs first",
                hint="quantize it entropy-coded",
            )
        rows = self.rows * column_factors(self.columns)
        return Quantized(self.codes.T, rows, np.array([COLUMN_ONE], np.uint8), self.words.T)


@dataclass(frozen=True)
class Factor:
    """What feedback needs of a calibration.

    Parameters
    ----------
    upper : ndarray, shape (inputs, inputs), float64
        The upper triangular U with U^T U = (H + damping)^-1.
    reached : ndarray, shape (inputs,), bool
        Which inputs were other than 0 in some sample.
    """

    upper: Doubles
    reached: npt.NDArray[np.bool_]


def gptq_factor(hessian: npt.NDArray[np.floating]) -> Factor:
    """Return the factor of H.

    Columns that no sample reached have only the damping on their diagonal: they are rounded to the nearest, never lost.

    Parameters
    ----------
    hessian : ndarray, shape (inputs, inputs)
        Symmetric; `mvc.lossy.calibration` checks it.

    Raises
    ------
    InvalidInputError
        If H is zero, or not positive definite with any of the dampings.
    """
    mean = float(np.diag(hessian).mean(dtype=np.float64))
    if not 0 < mean < np.inf:
        raise InvalidInputError(f"the mean of the diagonal of H is {mean}", hint="calibrate with samples that reach it")
    for damping in _DAMPINGS:
        damped = hessian.astype(np.float64)[::-1, ::-1].copy()
        damped[np.diag_indices_from(damped)] += damping * mean
        try:
            root = np.linalg.cholesky(damped)[::-1, ::-1]  # H = root root^T, root upper triangular
        except np.linalg.LinAlgError:
            continue
        return Factor(np.triu(np.linalg.inv(root)), np.diag(hessian) > 0)
    raise InvalidInputError(
        f"H of {len(hessian)} inputs is not positive definite, even with {_DAMPINGS[-1]:g} of its mean diagonal added",
        hint="calibrate again, with more samples, in float32",
    )


def uniform(delta: Delta, factor: Factor | None, bits: int, sparsity: float = 0.0) -> Quantized:
    """Return the tensor on a grid of ``2**bits`` levels for each row, as GPT-Zip has it.

    Parameters
    ----------
    delta : Delta
        What to store.
    factor : Factor or None
        `gptq_factor` of the calibration; None rounds every element to the nearest.
    bits : int
        1 to 16.
    sparsity : float
        Share of elements, 0 to below 1, to set back to the base afterwards: the smallest changes of the whole tensor,
        and all that equal the largest of them, so that the share may become larger than asked for.

    Raises
    ------
    InvalidInputError
        If `bits` or `sparsity` is out of range.
    """
    if not 1 <= bits <= MOST_BITS or not 0 <= sparsity < 1:
        raise InvalidInputError(f"bits {bits} and sparsity {sparsity} must be in 1 to 16 and 0 to below 1")
    values = delta.values
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    levels = (1 << bits) - 1
    rows = _as_steps((high - low) / levels)
    zero = np.rint(-low / rows)
    columns = np.array([COLUMN_ONE], np.uint8)
    codes = _feed_back(
        delta, factor, step_of(rows, columns), lambda x, step: np.clip(np.rint(x / step), -zero, levels - zero)
    )
    dense = Quantized(codes, rows, columns, stepped(delta.dtype, delta.base, codes, step_of(rows, columns)))
    return without_smallest(delta, dense, sparsity) if sparsity else dense


def without_smallest(delta: Delta, quantized: Quantized, sparsity: float) -> Quantized:
    """Return the tensor with a share of its elements set back to the base, as `uniform` does with `sparsity`."""
    steps = step_of(quantized.rows, quantized.columns)
    changes = np.abs(quantized.codes) * steps
    rank = int(changes.size * sparsity)
    codes = np.where(changes <= np.partition(changes, rank, axis=None)[rank], 0, quantized.codes)
    return replace(quantized, codes=codes, words=stepped(delta.dtype, delta.base, codes, steps))


def entropy_coded(delta: Delta, factor: Factor | None, step: float) -> Quantized:
    """Return the tensor on an unbounded grid, whose zeros an entropy coder stores in next to nothing.

    Columns have steps in proportion to the diagonal of `factor` (WaterSIC, arXiv 2603.04956): what hardly changes the
    outputs is stored coarsely.

    Parameters
    ----------
    delta, factor
        As for `uniform`.
    step : float
        Geometric mean of the steps of all columns, in units of the weights.

    Raises
    ------
    InvalidInputError
        If `step` is not a positive finite number.
    """
    if not 0 < step < np.inf:
        raise InvalidInputError(f"step is {step}; it must be a positive number")
    rows = _as_steps(np.array([step]))
    columns = _column_factors(factor)
    steps = step_of(rows, columns)
    codes = _feed_back(delta, factor, steps, lambda x, step: np.copysign(np.floor(np.abs(x) / step + _ROUNDING), x))
    return Quantized(codes, rows, columns, stepped(delta.dtype, delta.base, codes, steps))


def unbiased(delta: Delta, made: Quantized, hessian: npt.NDArray[np.floating] | None) -> Quantized:
    """Return the same codes with steps so much larger that the outputs of the layer keep all of what the delta adds.

    Coarse steps leave out part of every delta, so that the errors of all layers point the same way and add up in the
    outputs of the model. The factor is tr(D H D^T) / tr(Q H D^T), of what the codes Q stand for; what it adds to the
    error of the layer by itself points nowhere.

    Parameters
    ----------
    delta : Delta
        The tensor and its base.
    made : Quantized
        As `entropy_coded` has it.
    hessian : ndarray, shape (inputs, inputs), or None
        Of the calibration; None weighs all inputs alike.
    """
    whole = delta.values
    outputs = whole if hessian is None else whole @ hessian
    kept, all_of_it = float((delta.added(made.words) * outputs).sum()), float((whole * outputs).sum())
    if not 0 < kept < all_of_it:
        return made
    rows = _as_steps(made.rows.astype(np.float64) * min(all_of_it / kept, _MOST_GAIN))
    words = stepped(delta.dtype, delta.base, made.codes, step_of(rows, made.columns))
    return Quantized(made.codes, rows, made.columns, words) if finite(delta.dtype, words).all() else made


def _as_steps(steps: Doubles) -> Floats:
    """Return steps that the format allows; rows without a change have some step, and no use for it."""
    rows: Floats = np.clip(steps, SMALLEST_STEP, LARGEST_STEP).astype(np.float32)
    return rows


def _column_factors(factor: Factor | None) -> Columns:
    """Return the factor of each column; 1 for those that calibration did not reach."""
    if factor is None:
        return np.array([COLUMN_ONE], np.uint8)
    octaves = np.log2(np.diag(factor.upper))
    octaves -= octaves[factor.reached].mean()
    quarters = np.clip(np.rint(4 * octaves), -_MOST_FACTOR, _MOST_FACTOR)
    columns: Columns = (COLUMN_ONE + 2 * quarters * factor.reached).astype(np.uint8)
    return columns


def _feed_back(
    delta: Delta, factor: Factor | None, steps: Floats, code_of: Callable[[Doubles, Floats], Doubles]
) -> Codes:
    """Return the codes, column by column; the error of each is made good in those behind it (algorithm 1).

    The error counts the rounding to the element type, too: what is fed back is what a reader will have.
    """
    if factor is None:
        return _moved(delta.dtype, delta.base, code_of(delta.values.T, steps.T).T, steps)[0]
    rest = delta.values.T.copy()  # (inputs, outputs): columns lie together
    base = delta.base.T.copy()
    steps = np.ascontiguousarray(np.broadcast_to(steps, delta.base.shape).T)
    u = factor.upper
    if u.shape != (len(rest), len(rest)):
        raise InvalidInputError(f"H has {len(u)} inputs, the matrix {len(rest)}", hint="give H of this layer")
    codes: Codes = np.empty(rest.shape, dtype=np.int32)
    for start in range(0, len(rest), _BLOCK):
        end = min(start + _BLOCK, len(rest))
        errors = np.empty((end - start, rest.shape[1]))
        for i in range(start, end):
            codes[i], words = _moved(delta.dtype, base[i], code_of(rest[i], steps[i]), steps[i])
            error = errors[i - start] = (rest[i] - _difference(delta.dtype, words, base[i])) / u[i, i]
            rest[i + 1 : end] -= np.outer(u[i, i + 1 : end], error)
        rest[end:] -= u[start:end, end:].T @ errors
    return np.ascontiguousarray(codes.T)


def _moved(dtype: DType, base: Words, wanted: Doubles, steps: Floats) -> tuple[Codes, Words]:
    """Return codes near those wanted, 0 where the word would be infinite, and the words."""
    codes: Codes = np.clip(wanted, -LARGEST_CODE, LARGEST_CODE).astype(np.int32)
    words = stepped(dtype, base, codes, steps)
    infinite = ~finite(dtype, words)
    codes[infinite], words[infinite] = 0, base[infinite]
    return codes, words


def relative_output_error(delta: Delta, words: Words, hessian: npt.NDArray[np.floating] | None) -> float:
    """Return tr(E H E^T) / tr(D H D^T): E is what `words` leave of the delta D. 1 if the delta is lost; 0 if D is 0.

    Parameters
    ----------
    delta : Delta
        The tensor and its base.
    words : Words, shape (outputs, inputs)
        What stands for the tensor.
    hessian : ndarray, shape (inputs, inputs), or None
        Of the calibration; None weighs all inputs alike.
    """
    whole = delta.values
    error = whole - delta.added(words)
    lost, all_of_it = (float(((x if hessian is None else x @ hessian) * x).sum()) for x in (error, whole))
    return max(lost, 0.0) / all_of_it if all_of_it > 0 else 0.0  # an H that is hardly definite may say less than 0


def bits_per_parameter(codes: Codes) -> float:
    """Return the entropy of codes in groups of columns with codes of like size, in bits: about what they will take."""
    order = np.argsort(np.abs(codes).sum(axis=0, dtype=np.int64), kind="stable")
    groups = np.array_split(order, min(_CONTEXTS, len(order)))
    return sum(_entropy(codes[:, group]) for group in groups) / codes.size


def _entropy(codes: Codes) -> float:
    """Return the bits of all codes."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / codes.size)).sum())
