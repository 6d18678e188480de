"""Weights of linear layers set to zero so that the outputs change least: SparseGPT.

Frantar and Alistarh 2023, arXiv 2301.00774, algorithm 1: column by column, in blocks whose masks are chosen when they
are reached; what a zero costs is made good in the columns behind it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.gptq import Factor

__all__ = ["sparsified"]

_BLOCK: Final = 128
"""Columns whose mask is chosen at once: SparseGPT's."""


def sparsified(weights: npt.NDArray[np.floating], factor: Factor, sparsity: float) -> npt.NDArray[np.float64]:
    """Return weights of which a share is zero; zeros stay zeros.

    Parameters
    ----------
    weights : ndarray, shape (outputs, inputs)
        Of the layer; finite.
    factor : Factor
        `mvc.lossy.gptq.gptq_factor` of the calibration.
    sparsity : float
        Share of zeros, 0 to below 1, rounded down in each block.

    Returns
    -------
    ndarray, shape (outputs, inputs), float64
        With more zeros than asked for if there are more already.

    Raises
    ------
    InvalidInputError
        If the share is out of range, a weight is not finite, or the shapes do not agree.
    """
    rest, upper = weights.astype(np.float64), factor.upper
    if not 0 <= sparsity < 1:
        raise InvalidInputError(f"a sparsity of {sparsity:g} is not 0 to below 1")
    if rest.ndim != 2 or rest.shape[1] != len(upper) or not np.isfinite(rest).all():
        raise InvalidInputError(
            f"weights of shape {rest.shape} are no finite matrix with {len(upper)} inputs", hint="calibrate this model"
        )
    zero = rest == 0
    diagonal = np.diag(upper)
    for start in range(0, len(upper), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(upper)))
        gone = _mask(rest[:, block], diagonal[block], zero[:, block], sparsity)
        errors = np.empty_like(rest[:, block])
        for place, column in enumerate(range(block.start, block.stop)):
            kept = np.where(gone[:, place], 0.0, rest[:, column])
            errors[:, place] = (rest[:, column] - kept) / diagonal[column]
            rest[:, column] = kept
            rest[:, column + 1 : block.stop] -= np.outer(errors[:, place], upper[column, column + 1 : block.stop])
        rest[:, block.stop :] -= errors @ upper[block, block.stop :]
    return rest


def _mask(
    weights: npt.NDArray[np.float64],
    diagonal: npt.NDArray[np.float64],
    zero: npt.NDArray[np.bool_],
    sparsity: float,
) -> npt.NDArray[np.bool_]:
    """Return what goes of a block: what was zero, then what costs least, as far as the share asks for more."""
    scores = np.where(zero, -1.0, np.square(weights / diagonal))
    count = int(scores.size * sparsity)
    gone = np.zeros(scores.size, dtype=np.bool_)
    gone[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    found: npt.NDArray[np.bool_] = gone.reshape(scores.shape) | zero
    return found
