"""What the index answers with: plain values, so that nobody above it sees SQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from mvc.objects.blob import Envelope, Reference
from mvc.objects.commit import Commit, Metadata
from mvc.objects.manifest import SegmentKind
from mvc.store.layout import Location
from mvc.types import ObjectId

UNREACHABLE: Final = 1 << 62
"""Bytes of a chain that does not end: more than any store holds, and still an SQLite integer."""

__all__ = ["UNREACHABLE", "BlobRecord", "CodecTotal", "CommitRecord"]


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """One stored encoding.

    Parameters
    ----------
    id : ObjectId
        Content id.
    kind : SegmentKind
        Literal or tensor.
    location : Location
        Where the blob lies.
    raw_bytes : int
        Decoded size.
    codec : str
        Name of the codec.
    references : tuple of Reference
        The side tensors that its decoder needs.
    depth : int
        Blobs that must be decoded before it, on the longest way; 0 for a full encoding.
    chain_bytes : int
        Stored bytes that a rebuild reads: this blob and everything below it, counted as often as it is needed.
    """

    id: ObjectId
    kind: SegmentKind
    location: Location
    raw_bytes: int
    codec: str
    references: tuple[Reference, ...]
    depth: int
    chain_bytes: int

    @classmethod
    def of(cls, envelope: Envelope, location: Location) -> BlobRecord:
        """Return the record of a blob from what it says of itself, as if it needed no other."""
        return cls(
            envelope.id,
            envelope.kind,
            location,
            envelope.spec.nbytes,
            envelope.codec,
            envelope.references,
            envelope.depth,
            location.length,
        )

    @property
    def side(self) -> Reference | None:
        """The side tensor, or the first of several: what it is a delta of, or its companion."""
        return self.references[0] if self.references else None

    @property
    def reachable(self) -> bool:
        """False if it cannot be rebuilt: a side tensor is missing, or they run in a circle."""
        return self.chain_bytes < UNREACHABLE

    @property
    def cost(self) -> tuple[int, str]:
        """Encodings of one content are preferred in this order: quickest to rebuild, then the same one everywhere."""
        return self.chain_bytes, self.location.pack or ""


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One commit, as history queries need it.

    Parameters
    ----------
    id, manifest : ObjectId
        The commit and its manifest.
    parents : tuple of ObjectId
        First parent first.
    position : int
        The commit's time, raised where needed above the positions of its parents: sorting by it puts children before
        parents, whatever the clocks said.
    time : int
        Microseconds since 1970-01-01T00:00:00Z.
    author, message : str
        As recorded.
    metadata : Metadata
        Metrics and other facts.
    logical_bytes : int
        Sizes of all files, added up.
    recorded : tuple of ObjectId
        All parents as the commit records them, where `parents` lacks some that are absent by design; else empty.
    method : str or None
        By which its tensors were made from others, with a loss; None if they were not.
    source : ObjectId or None
        The commit that they were made from, if there was one. It need not be stored.
    """

    id: ObjectId
    manifest: ObjectId
    parents: tuple[ObjectId, ...]
    position: int
    time: int
    author: str
    message: str
    metadata: Metadata
    logical_bytes: int
    recorded: tuple[ObjectId, ...] = ()
    method: str | None = None
    source: ObjectId | None = None

    @property
    def named(self) -> tuple[ObjectId, ...]:
        """All parents that the commit names, be they here or not."""
        return self.recorded or self.parents

    @property
    def absent(self) -> tuple[ObjectId, ...]:
        """The parents that are absent by design."""
        return tuple(oid for oid in self.recorded if oid not in self.parents)

    @property
    def first_parent(self) -> ObjectId | None:
        """The first parent, if there is one and it is here."""
        return self.named[0] if self.named and self.named[0] in self.parents else None

    def without(self, absent: Collection[ObjectId]) -> CommitRecord:
        """Return the record as it is to be read where the commits `absent` are absent by design."""
        kept = tuple(oid for oid in self.named if oid not in absent)
        return self if kept == self.parents else replace(self, parents=kept, recorded=self.named)

    @classmethod
    def of(cls, commit: Commit, logical_bytes: int) -> CommitRecord:
        """Return the record of a commit at the position of its time, as if it had no parents."""
        return cls(
            commit.id,
            commit.manifest,
            commit.parents,
            commit.time,
            commit.time,
            commit.author,
            commit.message,
            commit.metadata,
            logical_bytes,
            method=commit.derivation.method if commit.derivation else None,
            source=commit.derivation.source if commit.derivation else None,
        )


@dataclass(frozen=True, slots=True)
class CodecTotal:
    """Everything stored by one codec.

    Parameters
    ----------
    codec : str
        Its name.
    blobs : int
        Number of blobs.
    raw_bytes, stored_bytes : int
        Decoded and stored size.
    """

    codec: str
    blobs: int
    raw_bytes: int
    stored_bytes: int
