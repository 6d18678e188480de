"""Which heads and neurons a model has kept, as its configuration says it: the value of ``mvc_structure``.

Indices are those of the model without cuts, however many times it was cut. The value is an object: ``version`` (1),
``family``, ``head_size``, ``heads`` and ``neurons`` (how many a layer had), and ``layers``, a list with ``heads`` (the
kept ones, ascending) and ``neurons`` (a bit for each, the lowest of each byte first, hexadecimal) for each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from mvc.errors import InvalidInputError
from mvc.runtime.families import Cut, Family, Kind
from mvc.runtime.module_maps import family_value, read_family

__all__ = ["KEY", "Kept", "Structure"]

KEY: Final = "mvc_structure"
"""In ``config.json``."""

_VERSION: Final = 1
_BITS: Final = range(8)
"""Of a byte."""
_FIELDS: Final = frozenset({"version", "family", "head_size", "heads", "neurons", "layers"})
_MOST: Final = {"head_size": 1 << 16, "heads": 1 << 14, "neurons": 1 << 20, "layers": 1 << 12}
"""Fields of a value: more than any model has, so that a broken file takes neither memory nor time."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a layer has kept.

    Parameters
    ----------
    heads, neurons : tuple of int
        Indices, ascending.
    """

    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    def of(self, kind: Kind) -> tuple[int, ...]:
        """Return those of one kind."""
        return self.heads if kind == "heads" else self.neurons


@dataclass(frozen=True, slots=True)
class Structure:
    """What a model has kept of what it was.

    Parameters
    ----------
    family : Family
        How its layers are built.
    head_size : int
        Elements of a head.
    heads, neurons : int
        How many a layer had.
    layers : tuple of Kept
        What each has kept.

    Raises
    ------
    InvalidInputError
        If an index is out of order or out of range.
    """

    family: Family
    head_size: int
    heads: int
    neurons: int
    layers: tuple[Kept, ...]

    def __post_init__(self) -> None:
        for kept in {id(kept): kept for kept in self.layers}.values():  # many may be one
            for found, full in ((kept.heads, self.heads), (kept.neurons, self.neurons)):
                rising = all(one < other for one, other in pairwise(found))
                if not rising or (found and not 0 <= found[0] <= found[-1] < full):
                    raise InvalidInputError(f"kept indices of {full} are out of range, or not in order")

    @classmethod
    def whole(cls, family: Family, layers: int, head_size: int, heads: int, neurons: int) -> Self:
        """Return the structure of a model without cuts."""
        return cls(family, head_size, heads, neurons, (Kept((*range(heads),), (*range(neurons),)),) * layers)

    def full(self, kind: Kind) -> int:
        """Return how many a layer had."""
        return self.heads if kind == "heads" else self.neurons

    def width(self, kind: Kind) -> int:
        """Return the inputs of the output layer that belong to one."""
        return self.head_size if kind == "heads" else 1

    def counts(self, kind: Kind) -> tuple[int, ...]:
        """Return how many each layer has kept."""
        return tuple(len(kept.of(kind)) for kept in self.layers)

    def within(self, local: Sequence[Kept]) -> Structure:
        """Return what is left if of each layer, as it is now, only some stay: `local` counts from 0 what is left."""
        layers = tuple(
            Kept(tuple(kept.heads[i] for i in new.heads), tuple(kept.neurons[i] for i in new.neurons))
            for kept, new in zip(self.layers, local, strict=True)
        )
        return Structure(self.family, self.head_size, self.heads, self.neurons, layers)

    def local(self, inner: Structure) -> tuple[Kept, ...]:
        """Return which of what this one has kept another one, with less, has kept: what `within` takes.

        Raises
        ------
        InvalidInputError
            If the other one has kept something that this one has not.
        """
        try:
            return tuple(
                Kept(tuple(map(kept.heads.index, new.heads)), tuple(map(kept.neurons.index, new.neurons)))
                for kept, new in zip(self.layers, inner.layers, strict=True)
            )
        except ValueError as error:
            raise InvalidInputError("one structure is no part of the other") from error

    def inputs(self, kind: Kind, kept: Sequence[int]) -> list[int]:
        """Return the inputs of the output layer that some heads or neurons are."""
        width = self.width(kind)
        return [index * width + place for index in kept for place in range(width)]

    def cuts(self) -> Iterator[tuple[str, int, Kind, Cut]]:
        """Yield every tensor that may have lost something: its name, its layer, what it lost, and where."""
        for layer in range(len(self.layers)):
            for kind in ("heads", "neurons"):
                for cut in self.family.sublayer(kind).cuts:
                    yield self.family.tensor(layer, cut.name), layer, kind, cut

    @property
    def value(self) -> dict[str, object]:
        """The value in a configuration."""
        layers = [{"heads": list(kept.heads), "neurons": _marks(kept.neurons, self.neurons)} for kept in self.layers]
        numbers = {"head_size": self.head_size, "heads": self.heads, "neurons": self.neurons}
        return {"version": _VERSION, "family": family_value(self.family), **numbers, "layers": layers}

    @classmethod
    def read(cls, value: object) -> Self:
        """Return what a value in a configuration says.

        Raises
        ------
        InvalidInputError
            If it is not of that form.
        """
        if not isinstance(value, Mapping) or value.keys() != _FIELDS or value["version"] != _VERSION:
            raise _refused("has other fields, or another version")
        layers, numbers = value["layers"], {name: value[name] for name in ("head_size", "heads", "neurons")}
        if not isinstance(layers, list) or len(layers) >= _MOST["layers"]:
            raise _refused("has layers that are no list, or too many")
        if not all(type(number) is int and 0 < number < _MOST[name] for name, number in numbers.items()):
            raise _refused("has sizes that are no numbers, or too large")
        head_size, heads, neurons = numbers.values()
        kept = tuple(_kept(layer, neurons) for layer in layers)
        return cls(read_family(value["family"]), head_size, heads, neurons, kept)


def _kept(value: object, neurons: int) -> Kept:
    if not isinstance(value, Mapping) or value.keys() != {"heads", "neurons"}:
        raise _refused("has a layer with other fields")
    heads, marks = value["heads"], value["neurons"]
    if not isinstance(heads, list) or not all(type(head) is int for head in heads) or not isinstance(marks, str):
        raise _refused("has a layer whose heads are no list, or whose neurons are no text")
    try:
        data = bytes.fromhex(marks)
    except ValueError as error:
        raise _refused(f"has neurons that are not hexadecimal: {error}") from error
    if len(data) != -(-neurons // 8) or (neurons % 8 and data[-1] >> neurons % 8):
        raise _refused(f"has marks for other than {neurons} neurons")
    return Kept(
        tuple(heads),
        tuple(8 * place + bit for place, byte in enumerate(data) if byte for bit in _BITS if byte >> bit & 1),
    )


def _marks(kept: Sequence[int], full: int) -> str:
    marks = bytearray(-(-full // 8))
    for index in kept:
        marks[index // 8] |= 1 << index % 8
    return marks.hex()


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"{KEY} in config.json {problem}", hint="use a newer release of mvc, or check it out again"
    )
