"""CPET: an adapter of a model becomes one of its compressed stand-in (Zhao et al. 2023). Needs torch.

The adapter is inherited from the uncompressed model (section 3.3), recovery modules are put beside every linear layer
(section 3.4), and both are trained together by equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mvc.errors import InvalidInputError
from mvc.lossy.distillation_torch import Group
from mvc.lossy.trainings_torch import MODULE_RATE, Trained, Training, add_recovery, recovery_of
from mvc.runtime.attaching import LORA, attach_lora, named_as
from mvc.runtime.bypass import Activation, Bypass, linear_layers, new_bypass
from mvc.runtime.peft import Lora
from mvc.runtime.structure import KEY, Structure
from mvc.types import DType

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = ["Adapter"]

_HEAD_RATE: Final = 1e-2
"""Of modules that are trained whole: a head begins far from where it ends, and with it a hundred steps are enough."""


class Adapter(Training):
    """An adapter, the modules that were trained whole with it, and recovery modules.

    Parameters
    ----------
    lora : Lora
        That of the uncompressed model: it says which layers have which rank. Of a model that has fewer heads and
        neurons it gets the rows and columns that are left.
    inherit : bool
        Whether its values are the start; else it begins at 0, and what was trained whole as the model has it.
    rank : int or None
        Of the recovery modules, if there are to be some.
    activation : Activation
        Of the recovery modules.
    """

    name = "adapter"

    def __init__(self, lora: Lora, *, inherit: bool, rank: int | None, activation: Activation = "gelu") -> None:
        self.given = frozenset(lora.saved if inherit else ())
        self._lora = lora
        self._inherit = inherit
        self._rank = rank
        self._activation = activation

    def begin(self, model: nn.Module, stored: Mapping[str, DType], generator: Generator) -> list[Group]:  # noqa: ARG002
        """See `Training.begin`."""
        self._lora = _narrowed(self._lora, model)
        parameters = dict(model.named_parameters())
        self._whole = {name: parameters[named_as(name, parameters, model)] for name in self._lora.saved}
        self._made = self._attached(model, generator)
        self._recovery: dict[str, Bypass] = {}
        if self._rank is not None:
            self._recovery = add_recovery(model, self._rank, self._activation, generator)
        modules = [end for made in (*self._made, *self._recovery.values()) for end in (made.down, made.up)]
        groups = [Group(modules, MODULE_RATE)]
        return [*groups, Group([*self._whole.values()], _HEAD_RATE)] if self._whole else groups

    def _attached(self, model: nn.Module, generator: Generator) -> list[Bypass]:
        if self._inherit:
            return attach_lora(model, self._lora)
        layers = linear_layers(model)
        wanted = [layers[named_as(name, layers, model)] for name in self._lora.factors]
        return new_bypass(wanted, LORA, self._lora.rank, self._lora.scale, "none", generator)

    def finish(self) -> Trained:
        """See `Training.finish`; the adapter keeps the type that it had.

        Raises
        ------
        InvalidInputError
            If a value is too large for that.
        """
        factors = {}
        for (layer, (a, b)), made in zip(self._lora.factors.items(), self._made, strict=True):
            factors[layer] = (_as_stored(made.down, a, layer), _as_stored(made.up, b, layer))
        whole = {name: _as_stored(self._whole[name], old, name) for name, old in self._lora.saved.items()}
        lora = replace(self._lora, factors=factors, saved=whole)
        return Trained(recovery=recovery_of(self._recovery, self._activation) if self._recovery else None, lora=lora)


def _narrowed(lora: Lora, model: nn.Module) -> Lora:
    """Return what is left of an adapter, made for all heads and neurons, if a model has lost some; else as it is.

    Layers that are never computed are left out.
    """
    value = getattr(getattr(model, "config", None), KEY, None)
    if value is None:
        return lora
    structure, layers, factors = Structure.read(value), linear_layers(model), dict(lora.factors)
    named = {named_as(name, layers, model).removeprefix(f"{model.base_model_prefix}."): name for name in factors}
    for weight, layer, kind, cut in structure.cuts():
        name = named.get(weight.removesuffix(".weight"))
        if name is None or not weight.endswith(".weight"):
            continue
        a, b = factors[name]
        full = structure.full(kind) * structure.width(kind)
        kept = cut.indices(structure.inputs(kind, structure.layers[layer].of(kind)), full)
        outputs = cut != structure.family.sublayer(kind).output
        if (b.shape[0] if outputs else a.shape[1]) == full * cut.repeats:
            factors[name] = (a, b[kept].contiguous()) if outputs else (a[:, kept].contiguous(), b)
    left = {name: ends for name, ends in factors.items() if all(end.numel() for end in ends)}
    if not left:
        raise InvalidInputError(
            "nothing is left of the layers that the adapter changes", hint="mvc recover, without it"
        )
    return replace(lora, factors=left)


def _as_stored(parameter: nn.Parameter, old: Tensor, what: str) -> Tensor:
    """Return a parameter in the type that it had before, and have the model use just that."""
    values = parameter.detach().to(old.dtype)
    if not bool(values.isfinite().all()):
        raise InvalidInputError(f"{what} holds a value that is not finite", hint="take fewer steps, or another seed")
    parameter.data.copy_(values)
    return values
