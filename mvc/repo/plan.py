"""Which encoding for which content: pure choices between measured options (the delta policy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mvc.codecs import (
    IMPLEMENTATION,
    MAX_MANTISSA,
    WIDE_MANTISSA,
    Codec,
    ContextDelta,
    Fit,
    Planes,
    Raw,
    SortedDelta,
    SortedPlanes,
    SparseDelta,
    overlap,
)
from mvc.objects.blob import Reference
from mvc.objects.manifest import Manifest, SegmentKind, TensorEntry
from mvc.settings import Delta, Level
from mvc.types import DType, ObjectId, TensorSpec

__all__ = [
    "SMALL_BYTES",
    "Option",
    "Relation",
    "Side",
    "base_bytes",
    "choose",
    "codecs_for",
    "codecs_for_small",
    "relatives",
    "within",
]

Relation = Literal["full", "previous", "base", "companion"]
"""How an encoding stands to other tensors: on its own; as a delta against the parent's tensor of the same name
(`previous`), or against the one at the bottom of that one's deltas (`base`); or in the order of a tensor of the same
commit (`companion`)."""

SMALL_BYTES: Final = 512
"""Raw bytes below which a content has no side tensor: what the envelope says of one takes 45 bytes, which is most of
what a delta of 64 changed floats saves, and to look for it takes longer than all else."""

_MOST_RELATIVES: Final = 2
"""Parent tensors of one name that are considered; more only arises when several files hold the same names."""
_REPEATS: Final = 4
"""Times that the bytes of a small content must occur on the average to be worth coding: a byte of zeros in each of 64
words is not, an array of one number is."""
_LEAST_OVERLAP: Final = 0.5
"""Share of the smaller shape that must lie inside the other: with less, most of what a delta reads and writes is not
shared. A tensor that grew or was cut passes, however much; one whose dimensions were swapped hardly ever does."""

_CONTEXT_MANTISSAS: Final = 2
"""Mantissas that are tried in the contexts of a coder; it was never the smallest with more."""


@dataclass(frozen=True, slots=True)
class Side:
    """A tensor with whose help another may be stored: what a delta is taken against, or a companion.

    Parameters
    ----------
    relation : Relation
        ``previous``, ``base`` or ``companion``.
    id : ObjectId
        Content id.
    depth : int
        Tensors to be decoded before it, on the longest way.
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
    side : Side or None
        The side tensor; None for a full encoding.
    stored_bytes : float
        Estimated size of the blob.
    """

    codec: Codec
    side: Side | None
    stored_bytes: float

    @property
    def relation(self) -> Relation:
        """How the encoding stands to other tensors."""
        return self.side.relation if self.side else "full"

    @property
    def references(self) -> tuple[Reference, ...]:
        """What the envelope says of the side tensor."""
        if self.side is None:
            return ()
        return (Reference(self.codec.roles[0], self.side.id, self.side.depth),)

    @property
    def depth(self) -> int:
        """Tensors to be decoded before this one, on the longest way."""
        return self.side.depth + 1 if self.side else 0

    @property
    def chain_bytes(self) -> float:
        """Bytes that a rebuild would read."""
        return self.stored_bytes + (self.side.chain_bytes if self.side else 0)


def relatives(parent: Manifest) -> Mapping[str, tuple[TensorEntry, ...]]:
    """Return the tensors of a parent commit that are not small by name, whatever file they are in.

    So ``checkpoint-1000/model.safetensors`` finds its base in ``checkpoint-500/model.safetensors``.
    """
    result: dict[str, tuple[TensorEntry, ...]] = {}
    for entry in (entry for entry in parent.tensors if entry.spec.nbytes >= SMALL_BYTES):
        known = result.get(entry.name, ())
        if len(known) < _MOST_RELATIVES and all(entry.id != other.id for other in known):
            result[entry.name] = (*known, entry)
    return result


def base_bytes(entry: TensorEntry, spec: TensorSpec) -> int | None:
    """Return the raw bytes of the tensor that is stored for `entry` if that can be a base of a tensor of `spec`.

    It must have the same dtype and rank, and share elements. What a view looks at is stored with one dimension, and
    only the index knows how long it is; it must be as long as the target.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> rows = [TensorSpec(dtype_of("F32"), (count, 384)) for count in (30522, 30600, 100)]
    >>> entry = TensorEntry("embeddings", 0, ObjectId("0" * 64), rows[0])
    >>> base_bytes(entry, rows[1]), base_bytes(entry, TensorSpec(dtype_of("BF16"), (30522, 384)))
    (46881792, None)
    """
    if spec.nbytes < SMALL_BYTES:
        return None
    if entry.view is not None:
        return spec.nbytes if entry.spec.dtype == spec.dtype and len(spec.shape) == 1 else None
    if Fit.between(entry.spec, spec) is None or overlap(entry.spec.shape, spec.shape) < _LEAST_OVERLAP:
        return None
    return entry.spec.nbytes


def codecs_for_small(content: bytes | memoryview) -> Sequence[Codec]:
    """Return the codecs to compare for a content of less than `SMALL_BYTES`, at every level.

    Few bytes that are all different cost less as they are than with the tables that tell them apart.
    """
    return (Raw(), Planes()) if len({*content}) * _REPEATS <= len(content) else (Raw(),)


def codecs_for(kind: SegmentKind, dtype: DType, level: Level, relation: Relation) -> Sequence[Codec]:
    """Return the codecs to compare for a content.

    Parameters
    ----------
    kind : SegmentKind
        Literals have no side tensors.
    dtype : DType
        Element type.
    level : Level
        ``fast`` takes what is likeliest, ``default`` the few worth comparing, ``max`` all that there is.
    relation : Relation
        ``full``, or how the side tensor stands to the content.
    """
    if relation == "full":
        return (Planes(),)
    if kind == "literal":
        return ()
    if relation == "companion":
        return _keyed(SortedPlanes, dtype, level)
    return (*SparseDelta.candidates(dtype), *_deltas(dtype, level))


def _deltas(dtype: DType, level: Level) -> Sequence[Codec]:
    """Return the codecs for a tensor of which most words changed.

    Compiled, the coder by contexts is faster than sorting, and smaller but for runs of equal changes: those of weight
    decay in wide floats, and of integers. In NumPy sorting is faster.
    """
    by_contexts = dtype.kind == "float" and IMPLEMENTATION == "native"
    if level == "fast":
        return (ContextDelta(0, quick=True),) if by_contexts else _keyed(SortedDelta, dtype, level)
    contexts = tuple(map(ContextDelta, _mantissas(dtype, level)[:_CONTEXT_MANTISSAS]))
    if by_contexts and dtype.mantissa_bits < WIDE_MANTISSA and level != "max":
        return contexts
    return (*_keyed(SortedDelta, dtype, level), *contexts)


def _keyed(codec: type[SortedDelta | SortedPlanes], dtype: DType, level: Level) -> Sequence[Codec]:
    """Return the instances of a codec to compare."""
    likely = codec.candidates(dtype)
    if level == "fast":
        return likely[:1]
    return likely if level == "default" else tuple(codec(mantissa) for mantissa in _mantissas(dtype, level))


def _mantissas(dtype: DType, level: Level) -> range:
    """Return the lengths of mantissa in the key that a level tries."""
    return range(min(MAX_MANTISSA, dtype.mantissa_bits) + 1 if level == "max" and dtype.kind == "float" else 1)


def within(candidates: Sequence[Side], raw_bytes: int, bounds: Delta) -> tuple[Side, ...]:
    """Return those of `candidates` that leave room for a reference to them under `bounds`, each once.

    Parameters
    ----------
    candidates : sequence of Side
        In order of preference.
    raw_bytes : int
        Size of the tensor that may refer to them.
    bounds : Delta
        Depth and bytes read.
    """
    most = bounds.read_factor * raw_bytes
    fitting: dict[ObjectId, Side] = {}
    for side in candidates:
        if side.depth < bounds.depth and side.chain_bytes < most:
            fitting.setdefault(side.id, side)
    return tuple(fitting.values())


def choose(options: Sequence[Option], raw_bytes: int, bounds: Delta) -> Option:
    """Return the option that a commit stores.

    The smallest wins among those that read no more than the bound; one with a side tensor must save
    `Delta.least_saving` against the full encoding. Of equal options the earlier one wins.

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
    >>> near = Option(SortedDelta(0), Side("previous", ObjectId("0" * 64), 0, 100), 30.0)
    >>> choose([full, near], 120, Delta()).relation
    'previous'
    >>> choose([full, near], 120, Delta(read_factor=1.0)).relation
    'full'
    """
    full = min((option for option in options if option.side is None), key=lambda option: option.stored_bytes)
    worthwhile = full.stored_bytes * (1 - bounds.least_saving)
    allowed = [
        option
        for option in options
        if option.side is not None
        and option.stored_bytes < worthwhile
        and option.side.depth < bounds.depth
        and option.chain_bytes <= max(bounds.read_factor * raw_bytes, full.stored_bytes)
    ]
    return min([*allowed, full], key=lambda option: option.stored_bytes)
