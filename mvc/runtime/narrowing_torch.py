"""Taking heads and neurons out of the layers of a model of `transformers`. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from mvc.runtime.families import Family
from mvc.runtime.structure import Kept

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["layers_of", "narrow", "parameter"]


def layers_of(model: Any, family: Family) -> nn.ModuleList:  # noqa: ANN401 - transformers has no types
    """Return the layers of a model, with or without a head."""
    layers: nn.ModuleList = model.base_model.get_submodule(family.layers)
    return layers


def parameter(layer: nn.Module, name: str) -> nn.Parameter:
    """Return a parameter by its name below a layer."""
    owner, _, leaf = name.rpartition(".")
    found: nn.Parameter = getattr(layer.get_submodule(owner), leaf)
    return found


def narrow(layer: nn.Module, family: Family, kept: Kept, head_size: int) -> None:
    """Leave of a layer only some of the heads and neurons that it has now.

    Without a head, or without a neuron, what is left of that half is its bias, the residual and the normalisation.

    Parameters
    ----------
    layer : nn.Module
        Changed in place; parameters become new ones.
    family : Family
        How it is built.
    kept : Kept
        What stays, counted in what there is now.
    head_size : int
        Elements of a head.
    """
    inputs = [head * head_size + place for head in kept.heads for place in range(head_size)]
    for sublayer, indices in ((family.heads, inputs), (family.neurons, list(kept.neurons))):
        full = parameter(layer, sublayer.output.name).shape[sublayer.output.axis]
        if len(indices) < full:
            for cut in sublayer.cuts:
                _select(layer, cut.name, cut.axis, cut.indices(indices, full))
        if not indices:
            linear = layer.get_submodule(sublayer.linear)
            linear.forward = MethodType(_bias_alone, linear)
    inside = family.heads.linear.removeprefix(f"{family.attention}.")
    behind = inside if inside != family.heads.linear else ""
    _tell_attention(layer.get_submodule(family.attention), len(inputs), len(kept.heads), behind)


def _select(layer: nn.Module, name: str, axis: int, indices: Sequence[int]) -> None:
    """Leave some indices of a parameter."""
    import torch  # noqa: PLC0415

    owner, _, leaf = name.rpartition(".")
    module, old = layer.get_submodule(owner), parameter(layer, name)
    places = torch.as_tensor(indices, dtype=torch.long, device=old.device)
    rest = old.detach().index_select(axis, places).contiguous()
    setattr(module, leaf, torch.nn.Parameter(rest, requires_grad=old.requires_grad))
    if leaf == "weight":
        _tell_linear(module)


def _tell_linear(module: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Have a linear layer know its size: `nn.Linear`, or ``Conv1D`` of transformers, whose inputs come first."""
    first, second = module.weight.shape
    if hasattr(module, "nf"):
        module.nx, module.nf = first, second
    else:
        module.out_features, module.in_features = first, second


def _tell_attention(attention: Any, size: int, heads: int, behind: str) -> None:  # noqa: ANN401
    """Have an attention know how many heads it has; without one, compute none, and only what is behind them in it."""
    for name, value in (("split_size", size), ("all_head_size", size)):
        if hasattr(attention, name):
            setattr(attention, name, value)
    for name in ("num_heads", "num_attention_heads", "n_heads"):
        if hasattr(attention, name):
            setattr(attention, name, heads)
    if not heads:
        attention.mvc_behind_heads = behind
        attention.forward = MethodType(_without_heads, attention)


def _bias_alone(linear: Any, hidden: Tensor) -> Tensor:  # noqa: ANN401 - a linear layer of either kind
    """Return what a linear layer without inputs puts out: its bias for every token."""
    bias: Tensor = linear.bias.expand(*hidden.shape[:-1], -1)
    return bias


def _without_heads(attention: Any, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:  # noqa: ANN401
    """Return what the heads of an attention put out if there are none, and no weights."""
    nothing = hidden_states[..., :0]
    behind = attention.mvc_behind_heads
    return (attention.get_submodule(behind)(nothing) if behind else nothing), None
