"""Second moments of what enters the linear layers and embeddings of a PyTorch model. Needs torch.

The streaming sum is that of GPTQ's reference implementation (Frantar et al. 2022, arXiv 2210.17323):
H = 2 X^T X / s, with one row of X for each token and s samples. To an embedding a token is a row of X with a single 1,
and H is diagonal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.runtime.bypass import is_linear, is_transposed

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["hessians", "inputs_first", "shared_names"]

Moments = npt.NDArray[np.float32]


def hessians(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], only: Collection[str] | None = None
) -> dict[str, Moments]:
    """Return H of every linear layer and embedding that the batches reach, by the name of its weight as a parameter.

    Parameters
    ----------
    model : nn.Module
        In the mode in which it is to be used; its weights and mode are left as they are.
    batches : iterable of mappings
        The keyword arguments of each forward pass, whose tensors have one sample a row. Tokens for which
        ``attention_mask`` is 0 do not count.
    only : collection of str, optional
        Names of weights to look at; all by default.

    Returns
    -------
    dict of ndarray, float32
        Of shape (inputs, inputs), or, of an embedding, the diagonal: (rows,).

    Raises
    ------
    InvalidInputError
        If there is no batch, or a layer was given a value that is not finite.
    """
    import torch  # noqa: PLC0415

    layers = {f"{name}.weight" if name else "weight": (name, layer) for name, layer in _layers(model)}
    sums = {
        weight: (layer, _sum_of(name, layer))
        for weight, (name, layer) in layers.items()
        if only is None or weight in only
    }
    with torch.inference_mode(), ExitStack() as stack:
        for layer, moments in sums.values():
            stack.enter_context(_hooked(layer, moments))
        for batch in batches:
            for _, moments in sums.values():
                moments.mask = batch.get("attention_mask")
            model(**batch)
    found = {name: moments.result() for name, (_, moments) in sums.items() if moments.samples}
    if not found:
        raise InvalidInputError("no batch reached a layer", hint="give at least one sample to calibrate on")
    return found


def shared_names(model: nn.Module) -> dict[str, frozenset[str]]:
    """Return all names of the parameter that each name is of: a head that shares the embedding has two."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: frozenset(group) for group in names.values() for name in group}


def inputs_first(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights whose first dimension counts inputs, not outputs."""
    return frozenset(f"{name}.weight" for name, layer in _layers(model) if is_transposed(layer))


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers and embeddings of which anything is left, and their names."""
    from torch import nn  # noqa: PLC0415

    for name, layer in model.named_modules():
        reads_rows = type(layer).forward is nn.Embedding.forward  # others are given something else, as OPT's positions
        if (is_linear(layer) or reads_rows) and layer.weight.numel():
            yield name, layer


class _Sum(ABC):
    """H of one layer so far."""

    def __init__(self) -> None:
        self.samples = 0
        self.mask: torch.Tensor | None = None

    @abstractmethod
    def add(self, inputs: torch.Tensor) -> None:
        """Count what one forward pass gave to the layer."""

    @abstractmethod
    def result(self) -> Moments:
        """Return H."""


def _sum_of(name: str, layer: nn.Module) -> _Sum:
    """Return the sum for a layer."""
    from torch import nn  # noqa: PLC0415

    return _Reads(layer.num_embeddings) if isinstance(layer, nn.Embedding) else _Products(name)


class _Reads(_Sum):
    """How often each row of an embedding was read."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._counts = np.zeros(rows, dtype=np.int64)

    def add(self, inputs: torch.Tensor) -> None:
        """Count indices, shape (samples, ...); those of one sample may stand for all, as positions do."""
        mask = self.mask
        if mask is not None and inputs.ndim == mask.ndim and inputs.shape[1:] == mask.shape[1:]:
            inputs = inputs.expand(mask.shape) if len(inputs) == 1 else inputs
        self.samples += len(inputs) if inputs.ndim > 1 else 1
        read = inputs[mask.bool()] if mask is not None and mask.shape == inputs.shape else inputs.reshape(-1)
        self._counts += np.bincount(read.cpu().numpy(), minlength=len(self._counts))

    def result(self) -> Moments:
        """Return the diagonal of H."""
        return (2 * self._counts / self.samples).astype(np.float32)


class _Products(_Sum):
    """The sum of products of what enters a linear layer."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self._moments: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor) -> None:
        """Count inputs, shape (samples, ..., inputs)."""
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

    def result(self) -> Moments:
        """Return H, exactly symmetric."""
        assert self._moments is not None
        moments = self._moments
        matrix: Moments = ((moments + moments.T) / 2).cpu().numpy()
        return matrix


@contextmanager
def _hooked(layer: nn.Module, moments: _Sum) -> Iterator[None]:
    """Give the inputs of `layer` to `moments` while the block runs."""
    handle = layer.register_forward_hook(  # behind it, so that what it refuses is refused in its words
        lambda _, args, named, __: moments.add(next(iter((*args, *named.values())))), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()
