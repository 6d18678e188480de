"""What of a model is trained to heal it, and what is stored of that. Needs torch.

`BiasNorm` trains biases and the weights of norms, which a compressed commit holds exactly anyway. `LowRank` puts the
product of two thin matrices beside each linear layer, which becomes part of its weight in the end. `Gelu` puts the
recovery modules of CPET there (Zhao et al. 2023, section 3.4), which stay modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from mvc.errors import InvalidInputError
from mvc.lossy.distillation_torch import Group
from mvc.lossy.rounding import FITTED_BITS, mantissa
from mvc.runtime.attaching import RECOVERY
from mvc.runtime.bypass import Activation, Bypass, is_transposed, linear_layers, new_bypass
from mvc.runtime.files import Recovery
from mvc.runtime.peft import Lora
from mvc.types import DType
from mvc.types.factors import MOST_RANK, Factored, factored
from mvc.types.steps import STEPPED, from_float32, to_float32

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

__all__ = [
    "MODULE_RATE",
    "BiasNorm",
    "Gelu",
    "LowRank",
    "NewTensor",
    "Trained",
    "Training",
    "add_recovery",
    "recovery_of",
    "training_of",
]

_RATE: Final = 2e-3
"""Of biases and norms: the first that was tried on MiniLM, where 80 steps take two thirds of the error (benchmarks)."""
MODULE_RATE: Final = 3e-3
"""Of new modules, which begin at 0: 1e-3 leaves an adapter of MiniLM under-trained after 100 steps."""
SCALE: Final = 2.0
"""Of modules, whatever their rank, so that a rate suits all ranks."""


@dataclass(frozen=True, slots=True, eq=False)
class NewTensor:
    """What becomes of a tensor of the files.

    Parameters
    ----------
    words : ndarray of uint8, shape (bytes,)
        Its new elements.
    factors : Factored or None
        The product that was added to it, if that is what was done.
    """

    words: npt.NDArray[np.uint8]
    factors: Factored | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training has made.

    Parameters
    ----------
    tensors : mapping of str to NewTensor
        By the names of parameters.
    recovery : Recovery or None
        Modules that stay beside layers.
    lora : Lora or None
        An adapter that does.
    """

    tensors: Mapping[str, NewTensor] = field(default_factory=dict)
    recovery: Recovery | None = None
    lora: Lora | None = None


class Training(ABC):
    """A choice of what is trained, for one model: `begin`, then training, then `finish`."""

    name: str
    """What a commit and messages call it."""
    given: frozenset[str] = frozenset()
    """Parameters that it puts values into at the beginning, whatever files hold."""

    @abstractmethod
    def begin(self, model: nn.Module, stored: Mapping[str, DType], generator: Generator) -> list[Group]:
        """Return what is to be trained, after modules were put where there are to be some.

        Parameters
        ----------
        model : nn.Module
            The student; it is changed.
        stored : mapping of str to DType
            Names of the parameters that the files hold, and the types that they have there.
        generator : Generator
            For new modules.

        Raises
        ------
        InvalidInputError
            If there is nothing of the kind.
        """

    @abstractmethod
    def finish(self) -> Trained:
        """Return what was made, rounded as it is stored, and leave the model as whoever loads it will have it."""


class BiasNorm(Training):
    """Parameters of one dimension."""

    name = "bias-ln"

    def begin(self, model: nn.Module, stored: Mapping[str, DType], generator: Generator) -> list[Group]:  # noqa: ARG002
        """See `Training.begin`."""
        self._stored = stored
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 1 and _steppable(stored.get(name))
        }
        if not self._parameters:
            raise InvalidInputError("the model has neither biases nor norms", hint="--train lowrank:4")
        return [Group([*self._parameters.values()], _RATE)]

    def finish(self) -> Trained:
        """See `Training.finish`."""
        found = {}
        for name, parameter in self._parameters.items():
            dtype = self._stored[name]
            words = from_float32(dtype, _array(parameter)).view(np.uint8)
            made = mantissa(words, dtype, FITTED_BITS).words
            _set(parameter, to_float32(dtype, made.view(f"<u{dtype.word_bytes}")))
            found[name] = NewTensor(made)
        return Trained(found)


class _Modules(Training):
    """Modules beside linear layers, of a rank."""

    activation: Activation

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self.name = f"{self.activation}:{rank}"

    def begin(self, model: nn.Module, stored: Mapping[str, DType], generator: Generator) -> list[Group]:
        """See `Training.begin`."""
        self._stored = stored
        self._made = add_recovery(model, self._rank, self.activation, generator, self._fits)
        return [Group([end for made in self._made.values() for end in (made.down, made.up)], MODULE_RATE)]

    def _fits(self, layer: str) -> bool:  # noqa: ARG002
        """Return whether a layer gets one."""
        return True


class Gelu(_Modules):
    """Modules that stay."""

    activation: Activation = "gelu"

    def finish(self) -> Trained:
        """See `Training.finish`."""
        return Trained(recovery=recovery_of(self._made, self.activation))


class LowRank(_Modules):
    """Modules that become part of the weight of their layer."""

    activation: Activation = "none"

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.name = f"lowrank:{rank}"

    def _fits(self, layer: str) -> bool:
        return _steppable(self._stored.get(f"{layer}.weight"))

    def finish(self) -> Trained:
        """See `Training.finish`."""
        found = {}
        for layer, bypass in self._made.items():
            name = f"{layer}.weight"
            dtype, parameter = self._stored[name], bypass.layer.get_parameter("weight")
            left, right = bypass.scale * _array(bypass.up), _array(bypass.down)
            if is_transposed(bypass.layer):
                left, right = np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)
            made = factored(left, right)
            words = made.applied(dtype, from_float32(dtype, _array(parameter)))
            bypass.remove()
            _set(parameter, to_float32(dtype, words))
            found[name] = NewTensor(np.ascontiguousarray(words).reshape(-1).view(np.uint8), made)
        return Trained(found)


def add_recovery(
    model: nn.Module,
    rank: int,
    activation: Activation,
    generator: Generator,
    fits: Callable[[str], bool] = lambda _: True,
) -> dict[str, Bypass]:
    """Put modules beside the linear layers of a model, its head left out, and return them by the names of layers.

    A layer of a smaller model of which nothing is left gets none: it is never computed.

    Raises
    ------
    InvalidInputError
        If no layer gets one.
    """
    within = getattr(model, "base_model", model)
    linear = {name: layer for name, layer in linear_layers(model, within).items() if fits(name)}
    layers = {name: layer for name, layer in linear.items() if layer.get_parameter("weight").numel()}
    if not layers:
        raise InvalidInputError("the model has no linear layer to put a module beside", hint="--train bias-ln")
    made = new_bypass(layers.values(), RECOVERY, rank, SCALE, activation, generator)
    return dict(zip(layers, made, strict=True))


def recovery_of(made: Mapping[str, Bypass], activation: Activation) -> Recovery:
    """Return modules as they are stored, in half precision, and have the model use just that.

    Raises
    ------
    InvalidInputError
        If a value is too large for it.
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, bypass in made.items():
        ends = [end.detach().half() for end in (bypass.down, bypass.up)]
        if not all(bool(end.isfinite().all()) for end in ends):
            raise InvalidInputError(
                f"the module beside {layer} holds a value that is too large", hint="take fewer steps, or another seed"
            )
        for parameter, end in zip((bypass.down, bypass.up), ends, strict=True):
            parameter.data.copy_(end)
        factors[layer] = (ends[0], ends[1])
    return Recovery(activation, SCALE, factors)


def training_of(text: str) -> Training:
    """Return the training that `text` names: ``bias-ln``, ``lowrank:R`` or ``gelu:R``.

    Raises
    ------
    InvalidInputError
        If it names none, or R is out of range.

    Examples
    --------
    >>> training_of("lowrank:4").name
    'lowrank:4'
    """
    kind, _, rank = text.partition(":")
    if text == "bias-ln":
        return BiasNorm()
    if kind not in {"lowrank", "gelu"} or not rank.isascii() or not rank.isdigit() or not 1 <= int(rank) <= MOST_RANK:
        raise InvalidInputError(
            f"{text[:40]!r} is nothing to train", hint=f"write bias-ln, lowrank:R or gelu:R, R from 1 to {MOST_RANK}"
        )
    return LowRank(int(rank)) if kind == "lowrank" else Gelu(int(rank))


def _steppable(dtype: DType | None) -> bool:
    """Return whether a parameter is stored, in a type whose values float32 holds."""
    return dtype is not None and dtype.name in STEPPED


def _array(parameter: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = np.ascontiguousarray(parameter.detach().float().cpu().numpy())
    return array


def _set(parameter: nn.Parameter, values: npt.NDArray[np.float32]) -> None:
    import torch  # noqa: PLC0415

    parameter.data.copy_(torch.from_numpy(np.array(values)))
