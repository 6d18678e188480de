"""Second moments of what enters the linear layers of a PyTorch model. Needs torch.

The streaming sum is that of GPTQ's reference implementation (Frantar et al. 2022, arXiv 2210.17323):
H = 2 X^T X / s, with one row of X for each token and s samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["hessians", "inputs_first"]

Matrix = npt.NDArray[np.float32]

_CONV1D = "Conv1D"
"""The class of transformers that is a linear layer with its weight transposed (GPT-2); known by name, so that the
package need not be there."""


def hessians(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, Matrix]:
    """Return H of every linear layer that the batches reach, by the name of its weight in the state dict.

    Parameters
    ----------
    model : nn.Module
        In the mode in which it is to be used; its weights and mode are left as they are.
    batches : iterable of mappings
        The keyword arguments of each forward pass, whose tensors have one sample a row. Tokens for which
        ``attention_mask`` is 0 do not count.

    Returns
    -------
    dict of ndarray, shape (inputs, inputs), float32

    Raises
    ------
    InvalidInputError
        If there is no batch, or a layer was given a value that is not finite.
    """
    import torch  # noqa: PLC0415

    sums = {f"{name}.weight" if name else "weight": _Sum(name) for name, _ in _linear(model)}
    with torch.inference_mode(), ExitStack() as stack:
        for (_, layer), moments in zip(_linear(model), sums.values(), strict=True):
            stack.enter_context(_hooked(layer, moments))
        for batch in batches:
            for moments in sums.values():
                moments.mask = batch.get("attention_mask")
            model(**batch)
    found = {name: moments.result() for name, moments in sums.items() if moments.samples}
    if not found:
        raise InvalidInputError("no batch reached a linear layer", hint="give at least one sample to calibrate on")
    return found


def inputs_first(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights whose first dimension counts inputs, not outputs."""
    return frozenset(f"{name}.weight" for name, layer in _linear(model) if type(layer).__name__ == _CONV1D)


def _linear(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers and their names."""
    from torch import nn  # noqa: PLC0415

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) or type(layer).__name__ == _CONV1D:
            yield name, layer


class _Sum:
    """H of one layer so far."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.samples = 0
        self.mask: torch.Tensor | None = None
        self._moments: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor) -> None:
        """Count what one forward pass gave to the layer, shape (samples, ..., inputs)."""
        samples = inputs.shape[0] if inputs.ndim > 1 else 1
        rows = self._tokens(inputs).float()
        if not bool(rows.isfinite().all()):
            raise InvalidInputError(
                f"layer {self.layer} was given a value that is not finite",
                hint="calibrate in float32, and look for the sample that overflows",
            )
        if self._moments is None:
            self._moments = rows.new_zeros(rows.shape[1], rows.shape[1])
        self._moments *= self.samples / (self.samples + samples)
        self.samples += samples
        rows = rows * (2 / self.samples) ** 0.5  # before the product, which could overflow
        self._moments.addmm_(rows.T, rows)

    def _tokens(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return one row for each token that counts."""
        if self.mask is not None and self.mask.shape == inputs.shape[:-1]:
            return inputs[self.mask.bool()]
        return inputs.reshape(-1, inputs.shape[-1])

    def result(self) -> Matrix:
        """Return H, exactly symmetric."""
        assert self._moments is not None
        moments = self._moments
        matrix: Matrix = ((moments + moments.T) / 2).cpu().numpy()
        return matrix


@contextmanager
def _hooked(layer: nn.Module, moments: _Sum) -> Iterator[None]:
    """Give the inputs of `layer` to `moments` while the block runs."""
    handle = layer.register_forward_pre_hook(lambda _, inputs: moments.add(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
