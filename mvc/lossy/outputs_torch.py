"""How far the outputs of a PyTorch model are from those of another, or of itself with other weights. Needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Expected", "TorchOutputs", "difference", "fields_of", "rows"]

_MOST_BYTES: Final = 1 << 30
"""Of outputs that are kept to compare with: 20,000 tokens of a model of 50,000 words, 700,000 of an encoder's 384."""

_NUMBERS_OF_TOKENS: Final = frozenset({"start_logits", "end_logits"})
"""Outputs with one number for each token: where an answer begins and ends."""


class Expected:
    """What a model puts out on some batches, for others to be compared with.

    Outputs are logits, every field whose name ends so, or the last hidden states if there are none. Tokens for which
    ``attention_mask`` is 0 do not count.

    Parameters
    ----------
    model : nn.Module
        In the mode in which it is to be used.
    batches : iterable of mappings
        The keyword arguments of each forward pass. Those whose outputs would no longer fit in 1 GiB are left out.

    Attributes
    ----------
    batches : list of mappings
        Those that were run, less what did not fit.
    outputs : list of Tensor
        One vector for each.

    Raises
    ------
    InvalidInputError
        If there is no batch, or an output is not finite.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        import torch  # noqa: PLC0415

        self.batches: list[Mapping[str, Any]] = []
        self.outputs: list[Tensor] = []
        room = _MOST_BYTES
        for batch in batches:
            with torch.inference_mode():
                outputs = rows(model(**batch), batch.get("attention_mask"))
            room -= outputs.nbytes
            if self.outputs and room < 0:
                break
            self.batches.append(batch)
            self.outputs.append(outputs.clone())
        self._energy = sum(map(_energy, self.outputs))
        if not 0 < self._energy < np.inf:
            raise InvalidInputError(
                f"the squares of the outputs of the model sum to {self._energy}",
                hint="look for the text that overflows, and give at least one",
            )

    def error(self, model: nn.Module) -> float:
        """Return the squared error of the outputs of a model, by the squares of the expected ones.

        Infinite if an output is not finite.

        Raises
        ------
        InvalidInputError
            If it puts out something of another shape.
        """
        import torch  # noqa: PLC0415

        lost = 0.0
        for batch, expected in zip(self.batches, self.outputs, strict=True):
            with torch.inference_mode():
                lost += _energy(difference(model(**batch), batch, expected))
        return lost / self._energy if np.isfinite(lost) else np.inf


class TorchOutputs:
    """The error of what a model puts out with other weights, compared with what it puts out with its own.

    Parameters
    ----------
    model : nn.Module
        In the mode in which it is to be used; its weights are replaced and put back.
    batches : sequence of mappings
        As for `Expected`.
    names : mapping of str to str
        What the state dict calls the tensors that will be replaced.
    origin : str
        What is to be recorded of the batches.

    Raises
    ------
    InvalidInputError
        If there is no batch, or an output is not finite.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Mapping[str, Any]], names: Mapping[str, str], origin: str = ""
    ) -> None:
        self.origin = origin
        self._model = model
        self._weights = model.state_dict()
        self._names = names
        self._expected = Expected(model, batches)

    @property
    def compared(self) -> int:
        """Batches that are compared: those that were given, less what did not fit."""
        return len(self._expected.batches)

    def error(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> float:
        """Return the squared error of the outputs with these tensors replaced, by the squares of the outputs.

        Infinite if an output is not finite.

        Parameters
        ----------
        tensors : mapping of str to ndarray
            By the names that commits use. What is no part of the model changes nothing.
        """
        import torch  # noqa: PLC0415

        new = {self._names[name]: torch.from_numpy(values) for name, values in tensors.items() if name in self._names}
        with self._replaced(new):
            return self._expected.error(self._model)

    @contextmanager
    def _replaced(self, new: Mapping[str, Tensor]) -> Iterator[None]:
        """Have other weights while the block runs."""
        old = {name: self._weights[name].clone() for name in new}
        try:
            self._set(new)
            yield
        finally:
            self._set(old)

    def _set(self, new: Mapping[str, Tensor]) -> None:
        for name, values in new.items():
            self._weights[name].copy_(values)


def rows(outputs: Any, mask: Tensor | None) -> Tensor:  # noqa: ANN401 - of whatever class the model has
    """Return the outputs for a batch as one vector, without what is padding."""
    import torch  # noqa: PLC0415

    return torch.cat([values.reshape(-1) for values in fields_of(outputs, mask).values()])


def fields_of(outputs: Any, mask: Tensor | None) -> dict[str, Tensor]:  # noqa: ANN401 - of whatever class the model has
    """Return the logits of a model, or its last hidden states if it has none, without what is of padding."""
    hidden = "last_hidden_state"
    fields = {n: v for n, v in outputs.items() if n.endswith("logits")} or {hidden: outputs[hidden]}
    return {name: _counted(name, value.float(), mask) for name, value in fields.items()}


def difference(outputs: Any, batch: Mapping[str, Any], expected: Tensor) -> Tensor:  # noqa: ANN401 - as for `rows`
    """Return the outputs for a batch, less those that are expected.

    Raises
    ------
    InvalidInputError
        If it is of another shape.
    """
    found = rows(outputs, batch.get("attention_mask"))
    if found.shape != expected.shape:
        raise InvalidInputError(
            f"the model puts out {found.numel()} numbers where {expected.numel()} are expected",
            hint="teacher and student must have the same outputs: the same head, or the same width without one",
        )
    return found - expected


def _counted(name: str, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return what is not padding: of values that have one row, or one number, for each token.

    Other numbers are of samples, as those of classes, of which there may be as many as tokens.
    """
    of_tokens = values.ndim > 2 or name in _NUMBERS_OF_TOKENS
    return values[mask.bool()] if of_tokens and mask is not None and values.shape[:2] == mask.shape else values


def _energy(values: Tensor) -> float:
    return float(values.double().square().sum())
