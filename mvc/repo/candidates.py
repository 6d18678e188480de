"""Which tensors may help to store which content of a commit: relatives in the parent, companions beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mvc.index import BlobRecord
from mvc.objects.manifest import Manifest
from mvc.repo.encode import Stored
from mvc.repo.plan import Relation, Side, base_bytes, relatives, within
from mvc.repo.scan import Content
from mvc.repo.session import Session
from mvc.store.layout import Location
from mvc.types import ObjectId

__all__ = ["Candidates", "Task"]

Task = tuple[Content, tuple[Side, ...]]
"""A content and the side tensors that it may use."""


class Candidates:
    """Finds the side tensors that the new contents of a commit may use.

    Parameters
    ----------
    session : Session
        The repository.
    parent : Manifest or None
        What the parent commit holds.
    names : iterable of str
        Names of the tensors that may be new: what is known of their relatives is asked for at once.
    """

    def __init__(self, session: Session, parent: Manifest | None, names: Iterable[str]) -> None:
        self._session = session
        self._relatives = relatives(parent) if parent else {}
        self._known: dict[ObjectId, BlobRecord] = {}
        self._learn(entry.id for name in names for entry in self._relatives.get(name, ()))

    def locate(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        """Return where the contents `ids`, and everything that these need, are stored; less what is missing."""
        return {oid: record.location for oid, record in self._chains(ids).items()}

    def _chains(self, ids: Iterable[ObjectId]) -> dict[ObjectId, BlobRecord]:
        """Return what is known of `ids` and of everything that they need."""
        wanted = [*ids]
        self._learn(wanted)
        result: dict[ObjectId, BlobRecord] = {}
        while wanted:
            oid = wanted.pop()
            if oid in self._known and oid not in result:
                result[oid] = self._known[oid]
                wanted += [item.id for item in self._known[oid].references]
        return result

    def _learn(self, ids: Iterable[ObjectId]) -> None:
        unknown = {oid for oid in ids if oid not in self._known}
        if unknown:
            self._known |= self._session.chains(unknown)

    def bases(self, new: Sequence[Content]) -> list[Task]:
        """Return each of `new` with its relatives in the parent."""
        return self.companions(new, {}, {})

    def companions(
        self, new: Sequence[Content], pairs: Mapping[ObjectId, ObjectId], done: Mapping[ObjectId, Stored]
    ) -> list[Task]:
        """Return each of `new` with its relatives and its companion.

        Parameters
        ----------
        new : sequence of Content
            Contents to be stored.
        pairs : mapping
            By content: its companion.
        done : mapping
            What this commit has stored already; not `new`.
        """
        near = {content.id: self._near(content) for content in new}
        wanted = {oid for found in near.values() for oid, _ in found} | {*pairs.values()}
        chains = _Chains(self._session, self._chains(wanted), near.keys())
        bounds = self._session.settings.delta
        tasks: list[Task] = []
        for content in new:
            if content.damaged:  # what could help to store it may hang on it by the time that it gets its name
                tasks.append((content, ()))
                continue
            found = [side for oid, size in near[content.id] for side in chains.bases(oid, size)]
            companion = pairs.get(content.id)
            if companion is not None and (stored := done.get(companion)):
                found.append(Side("companion", stored.content.id, stored.option.depth, stored.chain_bytes))
            else:
                found += chains.side("companion", companion)
            tasks.append((content, within(found, content.spec.nbytes, bounds)))
        return tasks

    def _near(self, content: Content) -> list[tuple[ObjectId, int]]:
        """Return tensors of the parent that `content` may be a delta of, and their raw bytes."""
        return [
            (entry.id, size)
            for name in content.names
            for entry in self._relatives.get(name, ())
            if (size := base_bytes(entry, content.spec)) is not None
        ]


class _Chains:
    """What is stored, as far as new contents may hang on it.

    Nothing may that is missing, or that needs one of the contents which are being stored, at any depth: they may be
    stored again because they are damaged, and would then hang on themselves.

    Parameters
    ----------
    session : Session
        The repository.
    chains : mapping
        Contents in question, and what they need.
    new : collection of ObjectId
        Contents that are being stored.
    """

    def __init__(self, session: Session, chains: Mapping[ObjectId, BlobRecord], new: Collection[ObjectId]) -> None:
        self._known = {
            oid: record
            for oid, record in chains.items()
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
        """Return the tensor at the end of the deltas, which is no delta itself.

        What was asked for at different times may hold a circle, which no state of the index does: it is left where it
        closes.
        """
        seen = {record.id}
        while below := [item.id for item in record.references if item.role == "base" and item.id in self._known]:
            if below[0] in seen:
                break
            record = self._known[below[0]]
            seen.add(record.id)
        return record.id
