"""Which encoding for which content: pure choices between measured options (the delta policy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mvc.codecs import Codec, Fit, Planes, SortedDelta, overlap
from mvc.objects.blob import Reference
from mvc.objects.manifest import Manifest, SegmentKind, TensorEntry
from mvc.settings import Delta, Level
from mvc.types import DType, ObjectId, TensorSpec

__all__ = ["Base", "Option", "Relation", "base_bytes", "bases", "choose", "codecs_for", "relatives"]

Relation = Literal["full", "previous", "base"]
"""How an encoding stands to history: on its own; as a delta against the parent's tensor of the same name (`previous`);
or against the tensor at the bottom of that one's chain, which is stored full (`base`)."""

_MOST_RELATIVES: Final = 2
"""Parent tensors of one name that are considered; more only arises when several files hold the same names."""
_LEAST_OVERLAP: Final = 0.5
"""Share of the smaller shape that must lie inside the other: with less, most of what a delta reads and writes is not
shared. A tensor that grew or was cut passes, however much; one whose dimensions were swapped hardly ever does."""


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
    if entry.view is not None:
        return spec.nbytes if entry.spec.dtype == spec.dtype and len(spec.shape) == 1 else None
    if Fit.between(entry.spec, spec) is None or overlap(entry.spec.shape, spec.shape) < _LEAST_OVERLAP:
        return None
    return entry.spec.nbytes


def codecs_for(kind: SegmentKind, dtype: DType, level: Level, *, delta: bool) -> Sequence[Codec]:
    """Return the codecs to compare for a content.

    Parameters
    ----------
    kind : SegmentKind
        Literals are never deltas.
    dtype : DType
        Element type.
    level : Level
        ``fast`` takes the likeliest parameters, ``default`` the few worth comparing, ``max`` all of them.
    delta : bool
        Whether there is a base.
    """
    if not delta or kind == "literal":
        return () if delta else (Planes(),)
    likely = SortedDelta.candidates(dtype)
    if level == "fast":
        return likely[:1]
    if level == "default" or dtype.kind != "float":
        return likely
    return tuple(SortedDelta(mantissa) for mantissa in range(min(7, dtype.mantissa_bits) + 1))


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
