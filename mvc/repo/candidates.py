"""Which tensors may help to store which content of a commit: relatives in the parent, companions beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mvc.index import BlobRecord
from mvc.objects.manifest import Manifest
from mvc.repo.companions import companions
from mvc.repo.encode import Stored
from mvc.repo.plan import Relation, Side, base_bytes, relatives, within
from mvc.repo.scan import Content, ScannedFile
from mvc.repo.session import Session
from mvc.settings import Delta
from mvc.types import ObjectId

__all__ = ["Candidates", "candidates"]

_Task = tuple[Content, tuple[Side, ...]]
"""A content and the side tensors that it may use."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The side tensors that the new contents of a commit may use, and the order in which these must be stored.

    Parameters
    ----------
    sides : mapping
        By content: those that are stored already.
    companions : mapping
        By content: a companion that is new in this commit too, and has none itself.
    bounds : Delta
        Bounds of the delta policy.
    """

    sides: Mapping[ObjectId, tuple[Side, ...]]
    companions: Mapping[ObjectId, ObjectId]
    bounds: Delta

    def early(self, new: Sequence[Content]) -> Iterator[_Task]:
        """Yield the contents that need nothing of this commit."""
        return ((content, self.sides[content.id]) for content in new if content.id not in self.companions)

    def late(self, new: Sequence[Content], done: Mapping[ObjectId, Stored]) -> Iterator[_Task]:
        """Yield the others, with their companions among `done`: what has become of the early ones."""
        for content in new:
            if content.id in self.companions:
                stored = done[self.companions[content.id]]
                companion = Side("companion", stored.content.id, stored.option.depth, stored.chain_bytes)
                yield content, within([*self.sides[content.id], companion], content.spec.nbytes, self.bounds)


def candidates(
    session: Session, new: Sequence[Content], parent: Manifest | None, files: Sequence[ScannedFile]
) -> Candidates:
    """Return what may help to store the contents `new`.

    Parameters
    ----------
    session : Session
        The repository.
    new : sequence of Content
        Contents to be stored.
    parent : Manifest or None
        What the parent commit holds.
    files : sequence of ScannedFile
        The files that hold `new`.
    """
    stored, pairs = relatives(parent) if parent else {}, companions(new, files)
    near = {
        content.id: [
            (entry.id, size)
            for name in content.names
            for entry in stored.get(name, ())
            if (size := base_bytes(entry, content.spec)) is not None
        ]
        for content in new
    }
    wanted = {oid for found in near.values() for oid, _ in found} | {*pairs.values()}
    chains = _Chains(session, wanted, near.keys())
    bounds = session.settings.delta
    sides = {}
    for content in new:
        found = [side for oid, size in near[content.id] for side in chains.bases(oid, size)]
        found += chains.side("companion", pairs.get(content.id))
        sides[content.id] = within(found, content.spec.nbytes, bounds)
    return Candidates(sides, {oid: other for oid, other in pairs.items() if other in near}, bounds)


class _Chains:
    """What is stored, as far as new contents may hang on it.

    Nothing may that is missing, or that needs one of the contents which are being stored, at any depth: they may be
    stored again because they are damaged, and would then hang on themselves.

    Parameters
    ----------
    session : Session
        The repository.
    wanted : collection of ObjectId
        Contents in question.
    new : collection of ObjectId
        Contents that are being stored.
    """

    def __init__(self, session: Session, wanted: Collection[ObjectId], new: Collection[ObjectId]) -> None:
        self._known = {
            oid: record
            for oid, record in session.chains(wanted).items()
            if oid not in new and session.store.holds(oid, record.location)
        }

    def bases(self, oid: ObjectId, size: int) -> Iterator[Side]:
        """Yield a tensor of `size` raw bytes, and the one at the bottom of its deltas, if they can be decoded."""
        if oid in self._known and self._known[oid].raw_bytes == size:
            yield from self.side("previous", oid)
            yield from self.side("base", self._bottom(self._known[oid]))

    def side(self, relation: Relation, oid: ObjectId | None) -> Iterator[Side]:
        """Yield a tensor if it can be decoded."""
        if oid in self._known and self._complete(oid):
            yield Side(relation, oid, self._known[oid].depth, self._known[oid].chain_bytes)

    def _complete(self, oid: ObjectId) -> bool:
        """Return True if everything that a tensor needs is there."""
        seen, pending = {oid}, [oid]
        while pending:
            needed = {item.id for item in self._known[pending.pop()].references} - seen
            if not needed <= self._known.keys():
                return False
            seen |= needed
            pending += needed
        return True

    def _bottom(self, record: BlobRecord) -> ObjectId:
        """Return the tensor at the end of the deltas, which is no delta itself."""
        while below := [item.id for item in record.references if item.role == "base" and item.id in self._known]:
            record = self._known[below[0]]
        return record.id
