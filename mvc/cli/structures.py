"""Which heads and neurons models have kept, as documents and as text: for ``show`` and ``diff``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from mvc.cli.text import printable
from mvc.runtime.structure import Kept, Structure

__all__ = ["change_documents", "change_lines", "structure_documents", "structure_lines"]

Structures = Mapping[str, Structure]
"""By the directory of the model."""


def structure_documents(found: Structures) -> list[dict[str, object]]:
    """Return what ``--json`` says of the models of a commit."""
    return [
        {
            "path": path,
            "heads": structure.heads,
            "neurons": structure.neurons,
            "layers": [_kept(layer) for layer in structure.layers],
        }
        for path, structure in found.items()
    ]


def structure_lines(found: Structures) -> Iterator[str]:
    """Yield what a person is told of them."""
    for path, structure in found.items():
        for number, layer in enumerate(structure.layers):
            heads = f"{len(layer.heads)} of {structure.heads} heads" + (
                f" ({_ranges(layer.heads)})" if layer.heads else ""
            )
            neurons = f"{len(layer.neurons):,} of {structure.neurons:,} neurons"
            yield f"{printable(path)}layer {number}: {heads}, {neurons}"


def change_documents(old: Structures, new: Structures) -> list[dict[str, object]]:
    """Return what ``--json`` says of models that have other heads or neurons on two sides."""
    return [
        {
            "path": path,
            "layers": [
                {"old": _kept(one), "new": _kept(other)} for one, other in zip(before.layers, after.layers, strict=True)
            ],
        }
        for path, before, after in _changed(old, new)
    ]


def change_lines(old: Structures, new: Structures) -> Iterator[str]:
    """Yield what a person is told of them."""
    for path, before, after in _changed(old, new):
        for number, (one, other) in enumerate(zip(before.layers, after.layers, strict=True)):
            if one == other:
                continue
            heads = f"heads {_ranges(one.heads) or 'none'} -> {_ranges(other.heads) or 'none'}"
            neurons = f"{len(one.neurons):,} -> {len(other.neurons):,} neurons"
            yield f"{printable(path)}layer {number}: {heads}, {neurons}"


def _changed(old: Structures, new: Structures) -> Iterator[tuple[str, Structure, Structure]]:
    """Yield the models that differ; one of which nothing is said on a side has kept everything there."""
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        known = after or before
        assert known is not None, "it is on one side"
        whole = Structure.whole(known.family, len(known.layers), known.head_size, known.heads, known.neurons)
        before, after = before or whole, after or whole
        if before != after and len(before.layers) == len(after.layers):
            yield path, before, after


def _kept(layer: Kept) -> dict[str, str]:
    return {"heads": _ranges(layer.heads), "neurons": _ranges(layer.neurons)}


def _ranges(indices: Sequence[int]) -> str:
    """Return ascending indices as text.

    >>> _ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    if not indices:
        return ""
    starts = [indices[0], *(other for one, other in pairwise(indices) if other != one + 1)]
    ends = [*(one for one, other in pairwise(indices) if other != one + 1), indices[-1]]
    return ",".join(str(one) if one == other else f"{one}-{other}" for one, other in zip(starts, ends, strict=True))
