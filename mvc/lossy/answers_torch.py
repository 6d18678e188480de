"""How far the answers of a PyTorch model on some texts are from what they were. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mvc.errors import InvalidInputError
from mvc.lossy.outputs_torch import fields_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Answers", "is_number"]

_MOST_BYTES: Final = 1 << 30
"""Of answers that are kept to compare with, as for `TorchOutputs`."""

_HIDDEN: Final = "last_hidden_state"


class Answers:
    """What a model answers on some batches.

    Of a model with logits the loss is the mean Kullback-Leibler divergence of the distributions that they stand for. A
    single logit is a number, as of a regression or a ranking, and stands for none: the loss is its squared error, by
    the squares of those numbers. Without logits it is that of the mean of the last hidden states of each text.

    Parameters
    ----------
    model : nn.Module
        What to compare with; in the mode in which it is used.
    batches : sequence of mappings
        The keyword arguments of each forward pass. Those whose answers would no longer fit in 1 GiB are left out.

    Raises
    ------
    InvalidInputError
        If there is no batch, or an answer is not finite.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> None:
        self._expected: list[dict[str, Tensor]] = []
        room = _MOST_BYTES
        for answers in _run(model, batches):
            room -= sum(values.nbytes for values in answers.values())
            if self._expected and room < 0:
                break
            self._expected.append(answers)
        self._batches = batches[: len(self._expected)]
        if not self._expected or not all(
            bool(values.isfinite().all()) for answers in self._expected for values in answers.values()
        ):
            raise InvalidInputError(
                "an output of the model is not finite, or there is none",
                hint="look for the text that overflows, and give at least one",
            )

    def loss(self, model: nn.Module) -> float:
        """Return how far the answers of a model are from those; infinite if one is not finite."""
        lost = weight = 0.0
        for answers, expected in zip(_run(model, self._batches), self._expected, strict=True):
            for name, values in expected.items():
                part, of = _distance(name, answers[name], values)
                lost, weight = lost + part, weight + of
        return max(lost, 0.0) / weight if lost == lost and lost < float("inf") else float("inf")  # noqa: PLR0124 - NaN

    @property
    def kind(self) -> str:
        """What the loss is: ``kl`` or ``mse``."""
        return "mse" if all(map(is_number, *zip(*self._expected[0].items(), strict=True))) else "kl"


def _distance(name: str, values: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the summed loss of some rows, and what to divide it by."""
    if is_number(name, expected):
        return float((values - expected).double().square().sum()), float(expected.double().square().sum())
    difference = expected.double().exp() * (expected.double() - values.double())
    return float(difference.sum()), float(expected.shape[:-1].numel())


def is_number(name: str, values: Tensor) -> bool:
    """Return whether answers are numbers, not logarithms of probabilities: of one class there is nothing to learn."""
    return name == _HIDDEN or (values.ndim > 1 and values.shape[-1] == 1)


def _run(model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Yield logarithms of probabilities, numbers, or means of hidden states, for each batch."""
    import torch  # noqa: PLC0415

    for batch in batches:
        with torch.inference_mode():
            outputs, mask = model(**batch), batch.get("attention_mask")
            fields = fields_of(outputs, mask)
            if _HIDDEN in fields:
                yield {_HIDDEN: _means(outputs[_HIDDEN].float(), mask)}
            else:
                yield {
                    name: values if is_number(name, values) else values.log_softmax(-1)
                    for name, values in fields.items()
                }


def _means(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the tokens of each text, (texts, size)."""
    if mask is None:
        return hidden.mean(1)
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1)
