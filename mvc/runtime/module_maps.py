"""Where heads and neurons lie in models of a type that `mvc.runtime.families` does not know, as a user says it.

A map is a JSON object::

    {"layers": "transformer.layer",
     "heads": {"inputs": ["attention.q_lin", "attention.k_lin", "attention.v_lin"], "output": "attention.out_lin",
               "attention": "attention", "start": "attention", "stop": "sa_layer_norm", "residual": "attention"},
     "neurons": {"inputs": ["ffn.lin1"], "output": "ffn.lin2", "start": "ffn", "stop": "output_layer_norm",
                 "residual": "ffn"}}

``layers`` is below the base model, all others are below a layer. Inputs and outputs are linear layers of PyTorch with a
bias. ``attention`` computes the heads; ``start`` and ``stop`` are what a half of a layer begins and ends with, and
``residual`` is what is given that to which the half is added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mvc.errors import InvalidInputError
from mvc.runtime.families import Cut, Family, Sublayer, family_named

__all__ = ["family_value", "read_family", "read_map"]

_MAPPED: Final = "mapped"
"""Name of every family that a map describes."""

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_LONGEST: Final = 200
"""Characters of the name of a module; those of transformers have some 50."""
_MOST_INPUTS: Final = 16
"""Linear layers in front of another one; attention has three."""

_HALVES: Final = {
    "heads": ("output", "attention", "start", "stop", "residual"),
    "neurons": ("output", "start", "stop", "residual"),
}
"""Names of modules in either half, beside the inputs."""


def family_value(family: Family) -> object:
    """Return what a structure records of a family: its name, or the map that describes it."""
    if family.name != _MAPPED:
        return family.name
    halves = {
        kind: {
            "inputs": [cut.name.removesuffix(".weight") for cut in half.inputs if cut.name.endswith(".weight")],
            "output": half.linear,
            "start": half.start,
            "stop": half.stop,
            "residual": half.residual,
        }
        for kind, half in (("heads", family.heads), ("neurons", family.neurons))
    }
    halves["heads"]["attention"] = family.attention
    return {"layers": family.layers, **halves}


def read_family(value: object) -> Family:
    """Return the family that a structure records.

    Raises
    ------
    InvalidInputError
        If its name is not known, or its map is none.
    """
    return read_map(value) if isinstance(value, Mapping) else family_named(str(value))


def read_map(value: object) -> Family:
    """Return the family that a map describes.

    Raises
    ------
    InvalidInputError
        If it has other fields, or a value that is no name of a module.

    Examples
    --------
    >>> half = {"inputs": ["up"], "output": "down", "start": "up", "stop": "norm", "residual": "up"}
    >>> family = read_map({"layers": "blocks", "heads": {**half, "attention": "self"}, "neurons": half})
    >>> family.neurons.output
    Cut(name='down.weight', axis=1, repeats=1)
    """
    if not isinstance(value, Mapping) or value.keys() != {"layers", *_HALVES}:
        raise _refused(f"it must have {', '.join(['layers', *_HALVES])}, and nothing else")
    attention = _half(value["heads"], "heads").get("attention")
    return Family(
        _MAPPED,
        frozenset(),
        _name(value["layers"], "layers"),
        _name(attention, "heads.attention"),
        _sublayer(value["heads"], "heads"),
        _sublayer(value["neurons"], "neurons"),
    )


def _half(value: object, kind: str) -> Mapping[str, object]:
    wanted = ("inputs", *_HALVES[kind])
    if not isinstance(value, Mapping) or value.keys() != {*wanted}:
        raise _refused(f"{kind} must have {', '.join(wanted)}, and nothing else")
    return value


def _sublayer(value: object, kind: str) -> Sublayer:
    """Return one half of a layer."""
    half = _half(value, kind)
    inputs = half["inputs"]
    if not isinstance(inputs, list) or not 0 < len(inputs) <= _MOST_INPUTS:
        raise _refused(f"{kind}.inputs must be a list of linear layers")
    names = [_name(name, f"{kind}.inputs") for name in inputs]
    modules = {name: _name(half[name], f"{kind}.{name}") for name in ("output", "start", "stop", "residual")}
    return Sublayer(
        tuple(Cut(f"{name}.{leaf}", 0) for name in names for leaf in ("weight", "bias")),
        Cut(f"{modules['output']}.weight", 1),
        f"{modules['output']}.bias",
        modules["start"],
        modules["stop"],
        modules["residual"],
    )


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not _NAME.fullmatch(value):
        raise _refused(f"{where} must be the name of a module, and is {str(value)!r:.60}")
    return value


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(f"the map of modules cannot be used: {problem}", hint="see docs/guides/derive.md")
