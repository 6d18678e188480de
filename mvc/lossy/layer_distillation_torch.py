"""Distillation of a model with fewer heads and neurons, by training what its commit stores anyway. Needs torch.

Kurtic et al. 2023 (ZipLM), arXiv 2302.04089: half of the loss is the divergence of the answers, half the distance of
the hidden states of every token. There are as many layers as before, so each is compared with that which it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mvc.lossy.answers_torch import is_number
from mvc.lossy.distillation_torch import Group, train
from mvc.lossy.outputs_torch import fields_of
from mvc.runtime.families import KINDS, Family

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["distil_layers", "trained_names"]

_HIDDEN: Final = "last_hidden_state"


def trained_names(layer: nn.Module, family: Family) -> list[str]:
    """Return the parameters of a layer that are trained: the weights of its output layers, and every vector.

    The former are other than in the source where anything has gone; of the latter there are few. All else stays a part
    of a tensor of the source, which takes no room.
    """
    outputs = {family.sublayer(kind).output.name for kind in KINDS}
    return [name for name, value in layer.named_parameters() if value.numel() and (value.ndim == 1 or name in outputs)]


def distil_layers(
    teacher: Any,  # noqa: ANN401 - transformers has no types
    student: Any,  # noqa: ANN401
    names: Sequence[str],
    batches: Sequence[Mapping[str, Any]],
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Train some parameters of a smaller model in place.

    Parameters
    ----------
    teacher, student : PreTrainedModel
        Ready to run; with as many layers as each other.
    names : sequence of str
        Parameters of the base model of the student: of `trained_names`, those that are to change.
    batches : sequence of mappings
        Keyword arguments of forward passes.
    steps : int
        Batches to take.
    rate : float
        Largest step of AdamW.
    seed : int
        Of the order of batches.

    Raises
    ------
    InvalidInputError
        If the loss is not finite.
    """
    import torch  # noqa: PLC0415

    parameters = [student.base_model.get_parameter(name) for name in names]

    def loss(place: int) -> Tensor:
        """Return what is made small, for a batch."""
        batch = batches[place]
        with torch.no_grad():
            expected = teacher(**batch, output_hidden_states=True)
        found = student(**batch, output_hidden_states=True)
        mask = batch.get("attention_mask")
        total: Tensor = sum(_terms(found, expected, mask))
        return total

    train(student, [Group(parameters, rate)], loss, len(batches), steps, seed)


def _terms(found: Any, expected: Any, mask: Tensor | None) -> Iterator[Tensor]:  # noqa: ANN401 - outputs of any class
    """Yield the parts of the loss: of answers, and of hidden states."""
    answers = fields_of(expected, mask)
    for name, values in fields_of(found, mask).items():
        target = answers[name]
        if name == _HIDDEN:
            continue  # it is among the hidden states
        if is_number(name, target):
            yield 0.5 * (values - target).square().sum() / target.square().sum()
        else:
            logs, known = values.log_softmax(-1), target.log_softmax(-1)
            yield 0.5 * (known.exp() * (known - logs)).sum() / known.shape[:-1].numel()
    states = list(zip(found.hidden_states[1:], expected.hidden_states[1:], strict=True))  # the first are embeddings
    for here, there in states:
        kept = there.new_ones(there.shape[:2]) if mask is None else mask.to(there.dtype)  # (B, T)
        distance, energy = ((here - there).square().sum(-1) * kept).sum(), (there.square().sum(-1) * kept).sum()
        yield 0.5 / len(states) * distance / energy
