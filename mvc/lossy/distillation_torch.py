"""Training a few parameters of a PyTorch model until it puts out what another one does. Needs torch.

The loss is ``task + alpha * mean((outputs - those of the teacher)^2)`` (CPET, Zhao et al. 2023, equations 4 and 5); the
task is the cross entropy of labels, if there are any. What the teacher puts out is computed once. The model stays in
the mode that it is in: without dropout, so that it is compared as it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.outputs_torch import Expected, difference

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Group", "Recipe", "Score", "distil", "order_of", "rate_at", "score", "train"]

_WARM_UP: Final = 0.06
"""Share of the steps in which the rate rises: U = 0 leaves D without a gradient first, and Adam's moments are young."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    steps : int
        Batches.
    seed : int
        Of the order of batches, and of new modules.
    distil : float
        Alpha, what the distance to the teacher's outputs weighs beside the task.
    """

    steps: int = 100
    seed: int = 0
    distil: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parameters that share a rate.

    Parameters
    ----------
    parameters : sequence of Parameter
        What is trained.
    rate : float
        Largest step of AdamW, which has no decay.
    """

    parameters: Sequence[nn.Parameter]
    rate: float


@dataclass(frozen=True, slots=True)
class Score:
    """How a student does on texts that it was not trained on.

    Parameters
    ----------
    error : float
        Squared error of its outputs, by the squares of those of the teacher; infinite if one is not finite.
    loss : float
        What training makes small.
    accuracy : float or None
        Share of the texts put in the right class, if there are labels.
    """

    error: float
    loss: float
    accuracy: float | None = None


def score(model: nn.Module, expected: Expected, recipe: Recipe, labels: Sequence[Tensor] | None = None) -> Score:
    """Measure a student; parameters as for `distil`."""
    import torch  # noqa: PLC0415

    losses, right, count = 0.0, 0, 0
    for place, batch in enumerate(expected.batches):
        of_batch = labels[place] if labels else None
        with torch.inference_mode():
            outputs = model(**batch)
            size = len(next(iter(batch.values())))
            losses += size * float(_loss(outputs, batch, expected.outputs[place], recipe, of_batch))
            count += size
            if of_batch is not None:
                right += int((outputs["logits"].argmax(-1) == of_batch).sum())
    return Score(expected.error(model), losses / count, right / count if labels else None)


def distil(
    model: nn.Module,
    groups: Sequence[Group],
    expected: Expected,
    recipe: Recipe,
    labels: Sequence[Tensor] | None = None,
) -> None:
    """Train parameters of a model in place; all others stay as they are.

    Parameters
    ----------
    model : nn.Module
        The student.
    groups : sequence of Group
        What is trained.
    expected : Expected
        What the teacher puts out.
    recipe : Recipe
        How.
    labels : sequence of Tensor, optional
        The classes of the samples of each batch.

    Raises
    ------
    InvalidInputError
        If the student puts out something of another shape, or the loss is not finite.
    """

    def loss(place: int) -> Tensor:
        """Return what is made small, for a batch."""
        batch = expected.batches[place]
        return _loss(model(**batch), batch, expected.outputs[place], recipe, labels[place] if labels else None)

    train(model, groups, loss, len(expected.batches), recipe.steps, recipe.seed)


def train(
    model: nn.Module,
    groups: Sequence[Group],
    loss: Callable[[int], Tensor],
    batches: int,
    steps: int,
    seed: int,
) -> None:
    """Make a loss small by changing parameters of a model in place; all others stay as they are.

    Parameters
    ----------
    model : nn.Module
        What is trained, in the mode in which it is to be used.
    groups : sequence of Group
        Of its parameters.
    loss : callable
        Returns what is to be small, for a batch of that number.
    batches : int
        How many there are.
    steps : int
        Batches to take, all of them in some order, then in another one.
    seed : int
        Of these orders.

    Raises
    ------
    InvalidInputError
        If the loss is not finite.
    """
    import torch  # noqa: PLC0415

    model.requires_grad_(requires_grad=False)
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(requires_grad=True)
    rates = [{"params": [*group.parameters], "lr": group.rate} for group in groups]
    optimizer = torch.optim.AdamW(rates, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    for step, place in enumerate(_places(batches, steps, seed)):
        found = loss(place)
        if not bool(found.isfinite()):
            raise InvalidInputError(
                f"the loss is {float(found.detach())} at step {step + 1} of {steps}",
                hint="look for the text that overflows, or take another seed",
            )
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
    model.requires_grad_(requires_grad=False)


def rate_at(step: int, steps: int) -> float:
    """Return the share of the rate at a step: it rises, and then falls to 0 in a line."""
    rising = max(1, round(_WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def _places(batches: int, steps: int, seed: int) -> Iterator[int]:
    """Yield which batch each step takes: all of them in some order, then in another one."""
    order: list[int] = []
    for step in range(steps):
        if not order:
            order = order_of(batches, seed + step)
        yield order.pop()


def order_of(count: int, seed: int) -> list[int]:
    """Return the numbers below `count` in a seeded order."""
    import torch  # noqa: PLC0415

    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _loss(
    outputs: Any,  # noqa: ANN401 - of whatever class the model has
    batch: Mapping[str, Any],
    expected: Tensor,
    recipe: Recipe,
    labels: Tensor | None,
) -> Tensor:
    """Return what is made small."""
    import torch  # noqa: PLC0415

    distance = recipe.distil * difference(outputs, batch, expected).square().mean()
    if labels is None:
        return distance
    task: Tensor = torch.nn.functional.cross_entropy(outputs["logits"].float(), labels)
    return task + distance if recipe.distil else task
