"""Small modules beside the linear layers of a model: ``y + s U f(D x)``. Needs torch.

The layer keeps its name and its weight; the module is a child of it, so that it moves, and is saved, with the model.
With f = GELU it is the recovery module of CPET (Zhao et al. 2023, section 3.4), without f LoRA (Hu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from mvc.errors import AlreadyExistsError, InvalidInputError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = [
    "Activation",
    "Bypass",
    "add_bypass",
    "bypasses",
    "is_linear",
    "is_transposed",
    "linear_layers",
    "new_bypass",
]

Activation = Literal["gelu", "none"]
"""What stands between the two matrices."""

_CONV1D: Final = "Conv1D"
"""The class of transformers that is a linear layer with its weight transposed (GPT-2); known by name, so that the
package need not be there."""

_UNCALLED: Final = "NonDynamicallyQuantizableLinear"
"""The class of the last layer of `torch.nn.MultiheadAttention`, which reads its weight and never calls it: what stands
beside it would add nothing."""

_CHILD: Final = "mvc_"
"""Before the name of a bypass among the children of its layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Bypass:
    """A module that was put beside a layer.

    Parameters
    ----------
    layer : nn.Module
        The linear layer.
    child : str
        What the module is called among its children.
    module : nn.Sequential
        The module: down, maybe an activation, up.
    scale : float
        What its output is multiplied by.
    activation : Activation
        What stands between its matrices.
    """

    layer: nn.Module
    child: str
    module: nn.Module
    scale: float
    activation: Activation

    @property
    def down(self) -> nn.Parameter:
        """D, shape (rank, inputs)."""
        return self.module.get_parameter("0.weight")

    @property
    def up(self) -> nn.Parameter:
        """U, shape (outputs, rank)."""
        return [*self.module.parameters()][-1]

    def remove(self) -> None:
        """Take it away; the layer is as it was."""
        hooks = self.layer._forward_hooks  # noqa: SLF001 - a handle does not survive a copy of the model
        for key in [key for key, hook in hooks.items() if isinstance(hook, _Beside) and hook.child == self.child]:
            del hooks[key]
            self.layer._forward_hooks_with_kwargs.pop(key, None)  # noqa: SLF001
        delattr(self.layer, self.child)

    def merge(self) -> None:
        """Make it part of the weight of its layer, and take it away."""
        import torch  # noqa: PLC0415

        weight = self.layer.get_parameter("weight")
        with torch.no_grad():
            product = self.scale * (self.up.float() @ self.down.float())
            weight += (product.T if is_transposed(self.layer) else product).to(weight.dtype)
        self.remove()


def is_linear(layer: nn.Module) -> bool:
    """Return whether a module is a linear layer."""
    from torch import nn  # noqa: PLC0415

    return isinstance(layer, nn.Linear) or type(layer).__name__ == _CONV1D


def is_transposed(layer: nn.Module) -> bool:
    """Return whether the first dimension of the weight of a layer counts inputs, not outputs."""
    return type(layer).__name__ == _CONV1D


def linear_layers(model: nn.Module, within: nn.Module | None = None) -> dict[str, nn.Module]:
    """Return the linear layers of a model by name, those that belong to a bypass left out.

    Parameters
    ----------
    model : nn.Module
        The model.
    within : nn.Module, optional
        Only those that are part of this module of it.
    """
    wanted = None if within is None else {id(module) for module in within.modules()}
    return {
        name: layer
        for name, layer in model.named_modules()
        if is_linear(layer)
        and type(layer).__name__ != _UNCALLED
        and f".{_CHILD}" not in f".{name}"
        and (wanted is None or id(layer) in wanted)
    }


def add_bypass(layer: nn.Module, name: str, down: Tensor, up: Tensor, scale: float, activation: Activation) -> Bypass:
    """Put a module beside a linear layer, in the type and on the device of its weight.

    Parameters
    ----------
    layer : nn.Module
        The layer.
    name : str
        What the module is for: a layer can have one of each name.
    down, up : Tensor, shapes (rank, inputs) and (outputs, rank)
        D and U.
    scale : float
        s.
    activation : Activation
        f.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit each other or the layer.
    AlreadyExistsError
        If the layer has a module of that name.
    """
    from torch import nn  # noqa: PLC0415

    weight, child = layer.get_parameter("weight"), _CHILD + name
    outputs, inputs = reversed(weight.shape) if is_transposed(layer) else weight.shape
    rank = len(down)
    if down.shape != (rank, inputs) or up.shape != (outputs, rank) or not rank:
        raise InvalidInputError(
            f"a module of shapes {tuple(down.shape)} and {tuple(up.shape)} does not fit beside a layer "
            f"of {inputs} inputs and {outputs} outputs",
            hint="it belongs to a model of another size",
        )
    if hasattr(layer, child):
        raise AlreadyExistsError(f"the layer has a module {name!r} beside it already", hint="attach to a fresh model")
    ends = [nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)]
    middle = [nn.GELU()] if activation == "gelu" else []
    module = nn.Sequential(ends[0], *middle, ends[1]).to(device=weight.device, dtype=weight.dtype)
    for end, values in zip(ends, (down, up), strict=True):
        end.weight.data.copy_(values)
    layer.add_module(child, module.train(layer.training))
    layer.register_forward_hook(_Beside(child, scale, activation), with_kwargs=True)
    return Bypass(layer, child, module, scale, activation)


def new_bypass(
    layers: Iterable[nn.Module], name: str, rank: int, scale: float, activation: Activation, generator: Generator
) -> list[Bypass]:
    """Put new modules beside layers: U is 0, so that nothing changes yet, and D uniform as in a new linear layer.

    D is drawn as ``kaiming_uniform_(a=sqrt(5))`` does: from plus or minus one over the root of the inputs.
    """
    import torch  # noqa: PLC0415

    made = []
    for layer in layers:
        weight = layer.get_parameter("weight")
        outputs, inputs = reversed(weight.shape) if is_transposed(layer) else weight.shape
        down = (2 * torch.rand(rank, inputs, generator=generator) - 1) / inputs**0.5
        made.append(add_bypass(layer, name, down, torch.zeros(outputs, rank), scale, activation))
    return made


def bypasses(model: nn.Module) -> list[Bypass]:
    """Return all modules that were put beside layers of a model."""
    return [
        Bypass(layer, hook.child, layer.get_submodule(hook.child), hook.scale, hook.activation)
        for layer in model.modules()
        for hook in layer._forward_hooks.values()  # noqa: SLF001 - there is no other way to list them
        if isinstance(hook, _Beside)
    ]


class _Beside:
    """The hook that adds what a module makes of the inputs of a layer; an object, so that models can be copied."""

    def __init__(self, child: str, scale: float, activation: Activation) -> None:
        self.child = child
        self.scale = scale
        self.activation = activation

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """Return the output of the layer and its bypass."""
        added: Tensor = layer.get_submodule(self.child)(next(iter((*inputs, *named.values()))))
        return output + self.scale * added
