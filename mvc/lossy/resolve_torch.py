"""Solving again, in order, for the output layers of a pruned model: each sees what is left before it. Needs torch.

Centred least squares with a bias: what a layer is given are the outputs of the pruned layers before it, what it is to
put out is that of the dense model plus what the residual has drifted, and the weights of structured optimal brain
surgeon are where the ridge pulls to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mvc.runtime.families import KINDS, Family, Kind
from mvc.runtime.narrowing_torch import layers_of, parameter

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["resolve_in_order"]

Doubles = npt.NDArray[np.float64]

_RIDGE: Final = 0.01
"""Share of the mean of the diagonal, as for the damping of moments."""


def resolve_in_order(
    dense: Any,  # noqa: ANN401 - transformers has no types
    pruned: Any,  # noqa: ANN401
    family: Family,
    batches: Sequence[Mapping[str, Any]],
) -> None:
    """Change weights and biases of the output layers of a pruned model so that it follows the dense one.

    Parameters
    ----------
    dense, pruned : PreTrainedModel
        The latter is changed in place.
    family : Family
        How their layers are built.
    batches : sequence of mappings
        The keyword arguments of forward passes; tokens whose ``attention_mask`` is 0 do not count.
    """
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        states = [_State.first(dense, family, batch) for batch in batches]
        for old, new in zip(layers_of(dense, family), layers_of(pruned, family), strict=True):
            for kind in KINDS:
                _solve(old, new, family, kind, states)
            for state in states:
                state.advance(old, new)


@dataclass
class _State:
    """One batch between two layers.

    Parameters
    ----------
    dense, pruned : Tensor
        What the next layer of either model is given.
    rest : tuple
        Its other arguments.
    named : dict
        Those with names.
    mask : Tensor or None
        Tokens that count.
    """

    dense: Tensor
    pruned: Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]
    mask: Tensor | None

    @classmethod
    def first(cls, model: Any, family: Family, batch: Mapping[str, Any]) -> _State:  # noqa: ANN401
        """Return a batch in front of the first layer, which is the same for both models."""
        seen = list[tuple[tuple[Any, ...], dict[str, Any]]]()

        def stop(_: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            """Note what the layer is given, and run no further."""
            seen.append((args, named))
            raise _StopError

        hook = layers_of(model, family)[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            model(**batch, **({"use_cache": False} if family.name == "gpt2" else {}))
        except _StopError:
            pass
        finally:
            hook.remove()
        [(args, named)] = seen
        rest = {name: value for name, value in named.items() if name != "hidden_states"}
        hidden = args[0] if args else named["hidden_states"]
        return cls(hidden, hidden, args[1:], rest, batch.get("attention_mask"))

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return what a layer puts out."""
        found = layer(hidden, *self.rest, **self.named)
        output: Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def advance(self, old: nn.Module, new: nn.Module) -> None:
        """Go behind a layer."""
        self.dense, self.pruned = self.run(old, self.dense), self.run(new, self.pruned)

    def counted(self, values: Tensor) -> Doubles:
        """Return one row for each token that counts."""
        rows = values.reshape(-1, values.shape[-1]) if self.mask is None else values[self.mask.bool()]
        doubles: Doubles = rows.double().numpy()
        return doubles


class _StopError(Exception):
    """Ends a forward pass."""


def _solve(old: nn.Module, new: nn.Module, family: Family, kind: Kind, states: Sequence[_State]) -> None:
    """Solve for the output layer of one half of a layer."""
    import torch  # noqa: PLC0415

    sublayer = family.sublayer(kind)
    weight, bias = parameter(new, sublayer.output.name), parameter(new, sublayer.bias)
    inputs = weight.shape[sublayer.output.axis]
    sums = _Sums(inputs, len(bias))
    for state in states:
        with _watched(old, sublayer.linear, sublayer.residual) as dense:
            state.run(old, state.dense)
        with _watched(new, sublayer.linear, sublayer.residual) as pruned:
            state.run(new, state.pruned)
        target = dense["output"] + dense["residual"] - pruned["residual"]
        given = pruned.get("input")
        sums.add(state.counted(given) if given is not None and inputs else None, state.counted(target))
    first = sublayer.output.axis == 0  # inputs come first
    before = weight.double().numpy()
    solved, offset = sums.solve(before.T if first else before)
    weight.copy_(torch.from_numpy(np.ascontiguousarray(solved.T if first else solved)))
    bias.copy_(torch.from_numpy(offset))


@contextmanager
def _watched(layer: nn.Module, linear: str, residual: str) -> Iterator[dict[str, Tensor]]:
    """Yield what a linear layer and a residual see while the block runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:  # noqa: ANN401 - a hook
        """Return a hook that notes the first argument of a module."""

        def hook(_: object, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            """Note it."""
            seen[name] = args[0] if args else next(iter(named.values()))

        return hook

    def keep_output(_: object, __: object, output: Tensor) -> None:
        """Note what the linear layer puts out."""
        seen["output"] = output

    with ExitStack() as stack:
        module = layer.get_submodule(linear)
        for handle in (
            module.register_forward_pre_hook(keep("input"), with_kwargs=True),
            module.register_forward_hook(keep_output),
            layer.get_submodule(residual).register_forward_pre_hook(keep("residual"), with_kwargs=True),
        ):
            stack.callback(handle.remove)
        yield seen


class _Sums:
    """What least squares need of inputs x and targets y."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._count = 0
        self._x, self._y = np.zeros(inputs), np.zeros(outputs)
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))

    def add(self, x: Doubles | None, y: Doubles) -> None:
        """Count some tokens; without inputs there is a bias to be found only."""
        self._count += len(y)
        self._y += y.sum(axis=0)
        if x is not None:
            self._x += x.sum(axis=0)
            self._xx += x.T @ x
            self._xy += x.T @ y

    def solve(self, before: Doubles) -> tuple[Doubles, Doubles]:
        """Return weights, (outputs, inputs), and bias; the ridge pulls to the weights `before`."""
        mean_x, mean_y = self._x / self._count, self._y / self._count
        if not len(mean_x):
            return before, mean_y
        moments = self._xx / self._count - np.outer(mean_x, mean_x)
        crossed = self._xy / self._count - np.outer(mean_x, mean_y)
        ridge = max(_RIDGE * float(np.diag(moments).mean()), np.finfo(np.float64).tiny)
        found = np.linalg.solve(moments + ridge * np.eye(len(moments)), crossed + ridge * before.T)
        solved: Doubles = found.T.astype(np.float64, copy=False)
        return solved, mean_y - solved @ mean_x
