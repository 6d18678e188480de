"""Which encoding for which content: pure choices between measured options (the delta policy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mvc.codecs import MAX_MANTISSA, Codec, ContextDelta, Planes, SortedDelta, SparseDelta
from mvc.objects.blob import Reference
from mvc.objects.manifest import Manifest, SegmentKind, TensorEntry
from mvc.settings import Delta, Level
from mvc.types import DType, ObjectId

__all__ = ["Base", "Option", "Relation", "bases", "choose", "codecs_for", "relatives"]

Relation = Literal["full", "previous", "base"]
"""How an encoding stands to history: on its own; as a delta against the parent's tensor of the same name (`previous`);
or against the tensor at the bottom of that one's chain, which is stored full (`base`)."""

_MOST_RELATIVES: Final = 2
"""Parent tensors of one name that are considered; more only arises when several files hold the same names."""

_CONTEXT_MANTISSAS: Final = 2
"""Mantissas that are tried in the contexts of a coder; it was never the smallest with more."""


@dataclass(frozen=True, slots=True)
class Base:
    """A stored tensor that a delta may be taken against.

    Parameters
    ----------
    relation : Relation
        ``previous`` or ``base``.
    id : ObjectId
        Content id.
    depth : int
        Deltas below it.
    chain_bytes : int
        Stored bytes that its rebuild reads.
    """

    relation: Relation
    id: ObjectId
    depth: int
    chain_bytes: int


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a tensor, and what it would cost.

    Parameters
    ----------
    codec : Codec
        The codec.
    base : Base or None
        What the delta is against; None for a full encoding.
    stored_bytes : float
        Estimated size of the blob.
    """

    codec: Codec
    base: Base | None
    stored_bytes: float

    @property
    def relation(self) -> Relation:
        """How the encoding stands to history."""
        return self.base.relation if self.base else "full"

    @property
    def references(self) -> tuple[Reference, ...]:
        """What the envelope says of the base."""
        if self.base is None:
            return ()
        return (Reference(self.codec.roles[0], self.base.id, self.base.depth),)

    @property
    def chain_bytes(self) -> float:
        """Bytes that a rebuild would read."""
        return self.stored_bytes + (self.base.chain_bytes if self.base else 0)


def relatives(parent: Manifest) -> Mapping[str, tuple[TensorEntry, ...]]:
    """Return the tensors of a parent commit by name, whatever file they are in.

    So ``checkpoint-1000/model.safetensors`` finds its base in ``checkpoint-500/model.safetensors``.
    """
    result: dict[str, tuple[TensorEntry, ...]] = {}
    for entry in parent.tensors:
        known = result.get(entry.name, ())
        if len(known) < _MOST_RELATIVES and all(entry.id != other.id for other in known):
            result[entry.name] = (*known, entry)
    return result


def codecs_for(kind: SegmentKind, dtype: DType, level: Level, *, delta: bool) -> Sequence[Codec]:
    """Return the codecs to compare for a content.

    Parameters
    ----------
    kind : SegmentKind
        Literals are never deltas.
    dtype : DType
        Element type.
    level : Level
        ``fast`` takes the likeliest parameters of the sorted delta, ``default`` the few worth comparing and the slower
        coder by contexts, ``max`` all of them.
    delta : bool
        Whether there is a base.
    """
    if not delta or kind == "literal":
        return () if delta else (Planes(),)
    likely, sparse = SortedDelta.candidates(dtype), SparseDelta.candidates(dtype)
    if level == "fast":
        return *sparse, *likely[:1]
    if level == "default" or dtype.kind != "float":
        return (*sparse, *likely, ContextDelta(0))
    mantissas = range(min(MAX_MANTISSA, dtype.mantissa_bits) + 1)
    return (*sparse, *map(SortedDelta, mantissas), *map(ContextDelta, mantissas[:_CONTEXT_MANTISSAS]))


def bases(candidates: Sequence[Base], raw_bytes: int, bounds: Delta) -> tuple[Base, ...]:
    """Return those of `candidates` that leave room for a delta under `bounds`, each once.

    Parameters
    ----------
    candidates : sequence of Base
        In order of preference.
    raw_bytes : int
        Size of the tensor.
    bounds : Delta
        Depth and bytes read.
    """
    most = bounds.read_factor * raw_bytes
    fitting: dict[ObjectId, Base] = {}
    for base in candidates:
        if base.depth < bounds.depth and base.chain_bytes < most:
            fitting.setdefault(base.id, base)
    return tuple(fitting.values())


def choose(options: Sequence[Option], raw_bytes: int, bounds: Delta) -> Option:
    """Return the option that a commit stores.

    The smallest wins among those that read no more than the bound; a delta must save `Delta.least_saving` against the
    full encoding. Of equal options the earlier one wins.

    Parameters
    ----------
    options : sequence of Option
        At least one of them full.
    raw_bytes : int
        Size of the content.
    bounds : Delta
        The bounds.

    Examples
    --------
    >>> full = Option(Planes(), None, 100.0)
    >>> near = Option(SortedDelta(0), Base("previous", ObjectId("0" * 64), 0, 100), 30.0)
    >>> choose([full, near], 120, Delta()).relation
    'previous'
    >>> choose([full, near], 120, Delta(read_factor=1.0)).relation
    'full'
    """
    full = min((option for option in options if option.base is None), key=lambda option: option.stored_bytes)
    worthwhile = full.stored_bytes * (1 - bounds.least_saving)
    allowed = [
        option
        for option in options
        if option.base is not None
        and option.stored_bytes < worthwhile
        and option.base.depth < bounds.depth
        and option.chain_bytes <= max(bounds.read_factor * raw_bytes, full.stored_bytes)
    ]
    return min([*allowed, full], key=lambda option: option.stored_bytes)
