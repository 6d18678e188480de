"""Where in a transformer heads and neurons lie: which tensors lose what when one goes. Declared, never guessed.

Names are those of the base model of `transformers`, below one of its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mvc.errors import InvalidInputError

__all__ = ["FAMILIES", "KINDS", "Cut", "Family", "Kind", "Sublayer", "family_named", "family_of"]

Kind = Literal["heads", "neurons"]
KINDS: Final[tuple[Kind, Kind]] = ("heads", "neurons")
"""What goes: attention heads, and neurons of a feed-forward block. In the order in which a layer computes them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor of which some indices go with a head or neuron.

    Parameters
    ----------
    name : str
        Below the layer.
    axis : int
        The dimension of those indices.
    repeats : int
        How many times they follow each other along it: 3 where queries, keys and values are one tensor.
    """

    name: str
    axis: int
    repeats: int = 1

    def indices(self, kept: Sequence[int], full: int) -> list[int]:
        """Return the indices that stay if of each of `full` only those `kept` do.

        Examples
        --------
        >>> Cut("attn.c_attn.bias", 0, 3).indices([1], 2)
        [1, 3, 5]
        """
        return [part * full + index for part in range(self.repeats) for index in kept]


@dataclass(frozen=True, slots=True)
class Sublayer:
    """One of the two halves of a layer.

    Parameters
    ----------
    inputs : tuple of Cut
        Tensors in front, of which slices stay.
    output : Cut
        The weight of the linear layer behind, whose other elements change, too.
    bias : str
        Of that linear layer; it stays where everything else goes.
    start, stop : str
        Modules with which the sublayer begins and ends, to be timed.
    residual : str
        The module whose input is what the output of the sublayer is added to.
    """

    inputs: tuple[Cut, ...]
    output: Cut
    bias: str
    start: str
    stop: str
    residual: str

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """All tensors that become smaller."""
        return (*self.inputs, self.output)

    @property
    def linear(self) -> str:
        """The module behind."""
        return self.output.name.removesuffix(".weight")


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose layers are built alike.

    Parameters
    ----------
    name : str
        As structures record it.
    kinds : frozenset of str
        What their configurations call themselves (``model_type``).
    layers : str
        The list of layers in the base model.
    attention : str
        The module of a layer that knows how many heads there are.
    heads, neurons : Sublayer
        The halves of a layer.
    """

    name: str
    kinds: frozenset[str]
    layers: str
    attention: str
    heads: Sublayer
    neurons: Sublayer

    def sublayer(self, kind: Kind) -> Sublayer:
        """Return one half."""
        return self.heads if kind == "heads" else self.neurons

    def tensor(self, layer: int, name: str) -> str:
        """Return what the base model calls a tensor of a layer."""
        return f"{self.layers}.{layer}.{name}"


def _weight_and_bias(module: str) -> tuple[Cut, Cut]:
    """Return the cuts of a linear layer, outputs first, whose outputs go."""
    return Cut(f"{module}.weight", 0), Cut(f"{module}.bias", 0)


_BERT: Final = Family(
    "bert",
    frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"}),
    "encoder.layer",
    "attention.self",
    Sublayer(
        tuple(cut for name in ("query", "key", "value") for cut in _weight_and_bias(f"attention.self.{name}")),
        Cut("attention.output.dense.weight", 1),
        "attention.output.dense.bias",
        "attention",
        "attention",
        "attention",
    ),
    Sublayer(
        _weight_and_bias("intermediate.dense"),
        Cut("output.dense.weight", 1),
        "output.dense.bias",
        "intermediate",
        "output",
        "intermediate",
    ),
)

_GPT2: Final = Family(
    "gpt2",
    frozenset({"gpt2"}),
    "h",
    "attn",
    Sublayer(
        (Cut("attn.c_attn.weight", 1, 3), Cut("attn.c_attn.bias", 0, 3)),
        Cut("attn.c_proj.weight", 0),
        "attn.c_proj.bias",
        "attn",
        "attn",
        "ln_1",
    ),
    Sublayer(
        (Cut("mlp.c_fc.weight", 1), Cut("mlp.c_fc.bias", 0)),
        Cut("mlp.c_proj.weight", 0),
        "mlp.c_proj.bias",
        "mlp",
        "mlp",
        "ln_2",
    ),
)

FAMILIES: Final = (_BERT, _GPT2)
"""All that is known."""


def family_of(kind: str) -> Family:
    """Return the family of a ``model_type``.

    Raises
    ------
    InvalidInputError
        If its modules are not mapped.
    """
    for family in FAMILIES:
        if kind in family.kinds:
            return family
    known = ", ".join(sorted(kind for family in FAMILIES for kind in family.kinds))
    raise InvalidInputError(
        f"nobody has said where the heads and neurons of a model of type {kind!r} lie",
        hint=f"known are {known}; --map FILE says it of others",
    )


def family_named(name: str) -> Family:
    """Return the family that a structure records.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InvalidInputError(f"the structure is of models like {name!r:.40}", hint="use a newer release of mvc")
