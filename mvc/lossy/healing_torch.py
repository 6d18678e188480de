"""Healing: a model that has lost something learns to put out what the one that it stands for does. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mvc.errors import InvalidInputError
from mvc.lossy.distillation_torch import Recipe, distil
from mvc.lossy.outputs_torch import Expected
from mvc.lossy.trainings_torch import Trained, Training
from mvc.types import DType

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Healed", "heal"]


@dataclass(frozen=True, slots=True, eq=False)
class Healed:
    """What healing has come to.

    Parameters
    ----------
    trained : Trained
        What changes.
    before, after : float
        Squared error of the outputs for held-out texts, by the squares of those of the teacher.
    """

    trained: Trained
    before: float
    after: float


def heal(
    student: nn.Module,
    training: Training,
    stored: Mapping[str, DType],
    expected: Expected,
    held_out: Expected,
    recipe: Recipe,
    labels: Sequence[Tensor] | None = None,
) -> Healed:
    """Train parts of a model so that it puts out what a teacher does; the model is left as it is stored then.

    Parameters
    ----------
    student : nn.Module
        The model, in the mode in which it is to be used.
    training : Training
        What is trained.
    stored : mapping of str to DType
        As for `Training`.
    expected, held_out : Expected
        What the teacher puts out for batches to train on, and for others to compare on.
    recipe, labels
        As for `distil`.

    Raises
    ------
    InvalidInputError
        If the student cannot be trained, or is no nearer to the teacher afterwards.
    """
    import torch  # noqa: PLC0415

    before = held_out.error(student)
    if not np.isfinite(before):
        raise InvalidInputError(
            "the model puts out a value that is not finite before anything is trained",
            hint="look for the text that overflows, or compress with a smaller loss",
        )
    groups = training.begin(student, stored, torch.Generator().manual_seed(recipe.seed))
    distil(student, groups, expected, recipe, labels)
    trained = training.finish()
    after = held_out.error(student)
    if not after < before:
        raise InvalidInputError(
            f"training {training.name} for {recipe.steps} steps does not heal it: the error of the outputs for "
            f"held-out texts was {before:.4g} and is {after:.4g}; nothing was recorded",
            hint="give more texts, or other --steps; what is that near to its teacher need not be healed",
        )
    return Healed(trained, before, after)
