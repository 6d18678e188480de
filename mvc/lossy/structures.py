"""Which inputs of a layer can go, in groups, and what the others become then: structured optimal brain surgeon.

ZipLM (Kurtic et al. 2023, arXiv 2302.04089, section 3): the group whose loss costs the outputs least goes first, the
weights of all others make up for it, and the next one is looked for. A group is one neuron in front of the second
linear layer of a feed-forward block, or one head in front of the output projection of attention. Only the order is
kept: the weights for any number of groups follow from it by least squares, which is what the steps lead to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError

__all__ = ["Gram", "Removal", "removal", "survivors"]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

_DAMPING: Final = 0.01
"""Share of the mean of the diagonal that is added to it (GPTQ's and ZipLM's)."""

_COMPACT: Final = 64
"""Columns removed before the matrices are cut to those that are left: the work of a step is quadratic in them."""


@dataclass(frozen=True)
class Gram:
    """What a calibration knows of the inputs of a layer.

    Parameters
    ----------
    damped : ndarray, shape (inputs, inputs), float64
        Second moments of the inputs, 1 on the diagonal where an input is always 0, and the damping.
    """

    damped: Doubles

    @classmethod
    def of(cls, moments: Floats) -> Self:
        """Return what pruning needs of the second moments of inputs, of any scale.

        Raises
        ------
        InvalidInputError
            If they are no finite square matrix, or not positive definite with the damping.
        """
        damped = moments.astype(np.float64)
        if damped.ndim != 2 or damped.shape[0] != damped.shape[1] or not np.isfinite(damped).all():
            raise InvalidInputError(f"second moments of shape {damped.shape} are no finite square matrix")
        diagonal = np.diag(damped)
        places = np.diag_indices_from(damped)
        damped[places] = np.where(diagonal == 0, 1.0, diagonal) + _DAMPING * diagonal.mean()
        try:
            np.linalg.cholesky(damped)
        except np.linalg.LinAlgError:
            raise InvalidInputError(
                f"the second moments of {len(damped)} inputs are not positive definite, even damped",
                hint="calibrate again, with more samples, in float32",
            ) from None
        return cls(damped)


@dataclass(frozen=True, slots=True)
class Removal:
    """In which order groups of inputs go.

    Parameters
    ----------
    width : int
        Inputs of each group; they lie side by side.
    order : tuple of int
        All groups, the one that goes first in front.
    losses : tuple of float
        What the outputs have lost by then, tr(E H E^T): as many as groups.
    """

    width: int
    order: tuple[int, ...]
    losses: tuple[float, ...]

    def kept(self, groups: int) -> tuple[int, ...]:
        """Return the inputs of the `groups` that go last, ascending.

        Raises
        ------
        InvalidInputError
            If there are not so many.
        """
        if not 0 <= groups <= len(self.order):
            raise InvalidInputError(f"{groups} of {len(self.order)} groups of inputs cannot be kept")
        last = sorted(self.order[len(self.order) - groups :])
        return tuple(group * self.width + column for group in last for column in range(self.width))


def removal(weights: Floats, gram: Gram, width: int) -> Removal:
    """Return the order in which groups of inputs go.

    Parameters
    ----------
    weights : ndarray, shape (outputs, inputs)
        Of the layer; finite.
    gram : Gram
        Of its inputs.
    width : int
        Inputs of a group: 1 for neurons, the size of a head for heads.

    Raises
    ------
    InvalidInputError
        If there is no whole number of groups, or the shapes do not agree.
    """
    _check(weights, gram)
    if width < 1 or weights.shape[1] % width:
        raise InvalidInputError(f"{weights.shape[1]} inputs are no groups of {width}")
    inverse: Doubles = np.linalg.inv(gram.damped).astype(np.float64, copy=False)
    left = _Left(weights.astype(np.float64), inverse, width)
    order, losses, lost = list[int](), list[float](), 0.0
    for _ in range(weights.shape[1] // width):
        group, loss = left.remove()
        lost += loss
        order.append(group)
        losses.append(lost)
    return Removal(width, tuple(order), tuple(losses))


class _Left:
    """What is left of a layer while its groups of inputs go.

    Weights W and inverse G of the damped moments are changed late: W - V L^T and G - L L^T hold by now. What scores are
    made of is kept up to date, and made anew whenever the matrices are.
    """

    def __init__(self, weights: Doubles, inverse: Doubles, width: int) -> None:
        self._width = width
        self._begin(weights, inverse, np.arange(weights.shape[1] // width))

    def _begin(self, weights: Doubles, inverse: Doubles, groups: npt.NDArray[np.int64]) -> None:
        """Start from matrices of these groups."""
        count, width = len(groups), self._width
        self._weights, self._inverse, self._groups = weights, inverse, groups
        self._rows = np.empty((count * width, 0))  # L, (inputs, removed)
        self._columns = np.empty((len(weights), 0))  # V, (outputs, removed)
        self._blocks = inverse.reshape(count, width, count, width)[np.arange(count), :, np.arange(count)].copy()
        self._energies = np.einsum("ogi,ogj->gij", *2 * [weights.reshape(len(weights), count, width)])  # W_g^T W_g
        self._alive = np.ones(count, dtype=np.bool_)

    def remove(self) -> tuple[int, float]:
        """Take away the group that costs least; return its number and what it costs."""
        place, score, inverse = self._cheapest()
        root = np.linalg.cholesky(inverse)
        columns = slice(place * self._width, (place + 1) * self._width)
        rows = (self._inverse[:, columns] - self._rows @ self._rows[columns].T) @ root  # (inputs, width)
        change = (self._weights[:, columns] - self._columns @ self._rows[columns].T) @ root  # (outputs, width)
        self._follow(rows, change)
        self._rows, self._columns = np.hstack([self._rows, rows]), np.hstack([self._columns, change])
        self._alive[place] = False
        found = int(self._groups[place])
        if self._rows.shape[1] >= _COMPACT:
            self._compact()
        return found, max(0.0, score)

    def _cheapest(self) -> tuple[int, float, Doubles]:
        """Return the place of the group that costs least, what it costs, and the inverse of its block of G."""
        blocks = np.where(self._alive[:, None, None], self._blocks, np.eye(self._width))
        inverses: Doubles = 1 / blocks if self._width == 1 else np.linalg.inv(blocks).astype(np.float64, copy=False)
        scores = np.where(self._alive, (self._energies * inverses).sum(axis=(1, 2)), np.inf)
        place = int(scores.argmin())
        return place, float(scores[place]), inverses[place]

    def _follow(self, rows: Doubles, change: Doubles) -> None:
        """Bring what scores are made of up to date: W becomes W - change rows^T, G becomes G - rows rows^T."""
        count, width = len(self._groups), self._width
        crossed = change.T @ self._weights - (change.T @ self._columns) @ self._rows.T  # (width, inputs)
        mixed = crossed.reshape(width, count, width).transpose(1, 2, 0) @ (each := rows.reshape(count, width, width).mT)
        self._blocks -= each.mT @ each
        self._energies += each.mT @ (change.T @ change) @ each - mixed - mixed.mT

    def _compact(self) -> None:
        """Change the matrices at last, and cut off what went."""
        stay = np.repeat(self._alive, self._width)
        rows = self._rows[stay]
        weights = self._weights[:, stay] - self._columns @ rows.T
        self._begin(weights, self._inverse[np.ix_(stay, stay)] - rows @ rows.T, self._groups[self._alive])


def survivors(weights: Floats, gram: Gram, kept: Sequence[int]) -> Doubles:
    """Return the weights of the inputs that stay, so that the outputs change least.

    All inputs that stay make up for those that go: W H[:, S] H[S, S]^-1, the solution of least squares.

    Parameters
    ----------
    weights : ndarray, shape (outputs, inputs)
        Of the layer.
    gram : Gram
        Of its inputs.
    kept : sequence of int
        Inputs that stay, ascending.

    Returns
    -------
    ndarray, shape (outputs, len(kept)), float64
        Those of `weights`, bit for bit, if all stay.
    """
    _check(weights, gram)
    if len(kept) == weights.shape[1] or not len(kept):
        return weights[:, list(kept)].astype(np.float64)
    columns = np.asarray(kept)
    mixed = weights.astype(np.float64) @ gram.damped[:, columns]  # (outputs, kept)
    solved: Doubles = np.linalg.solve(gram.damped[np.ix_(columns, columns)], mixed.T).T
    return solved


def _check(weights: Floats, gram: Gram) -> None:
    if weights.ndim != 2 or weights.shape[1] != len(gram.damped) or not np.isfinite(weights).all():
        raise InvalidInputError(
            f"weights of shape {weights.shape} are no finite matrix with {len(gram.damped)} inputs",
            hint="calibrate this model",
        )
