"""Healing: a model that has lost something learns to put out what the one that it stands for does. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mvc.errors import InvalidInputError
from mvc.lossy.distillation_torch import Recipe, Score, distil, score
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
    before, after : Score
        On held-out texts; new modules are there before, and change nothing unless they were inherited.
    """

    trained: Trained
    before: Score
    after: Score


def heal(
    student: nn.Module,
    training: Training,
    stored: Mapping[str, DType],
    expected: Expected,
    held_out: Expected,
    recipe: Recipe,
    labels: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
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
    recipe : Recipe
        How.
    labels : pair of sequences of Tensor, optional
        The classes of both, as for `distil`.

    Raises
    ------
    InvalidInputError
        If the student cannot be trained, or is no better afterwards: no nearer to the teacher, or with labels if what
        training makes small did not fall.
    """
    import torch  # noqa: PLC0415

    to_train, to_compare = labels or (None, None)
    groups = training.begin(student, stored, torch.Generator().manual_seed(recipe.seed))
    before = score(student, held_out, recipe, to_compare)
    if not np.isfinite(before.error):
        raise InvalidInputError(
            "the model puts out a value that is not finite before anything is trained",
            hint="look for the text that overflows, or compress with a smaller loss",
        )
    distil(student, groups, expected, recipe, to_train)
    trained = training.finish()
    after = score(student, held_out, recipe, to_compare)
    if not (after.loss < before.loss if labels else after.error < before.error):
        what, values = ("loss", (before.loss, after.loss)) if labels else ("error", (before.error, after.error))
        raise InvalidInputError(
            f"training {training.name} for {recipe.steps} steps does not help: the {what} of the outputs for "
            f"held-out texts was {values[0]:.4g} and is {values[1]:.4g}; nothing was recorded",
            hint="give more texts, or other --steps; what is that near to its teacher need not be healed",
        )
    return Healed(trained, before, after)
