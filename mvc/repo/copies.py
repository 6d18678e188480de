"""Second copies of the bases on which most depends, so that one damaged file does not take a history with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mvc.index import BlobRecord
from mvc.store.layout import EntryKind
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

__all__ = ["copies_wanted", "dependants", "is_copy", "make_copies"]


def dependants(chain: Mapping[ObjectId, BlobRecord]) -> dict[ObjectId, int]:
    """Return how many contents cannot be rebuilt without each content, itself not counted.

    Parameters
    ----------
    chain : mapping of ObjectId to BlobRecord
        Contents, and everything that they need.
    """
    result = dict.fromkeys(chain, 0)
    for oid in chain:
        needed: set[ObjectId] = set()
        pending = [oid]
        while pending:
            below = {item.id for item in chain[pending.pop()].references} - needed
            needed |= below
            pending += below
        for side in needed:
            result[side] += 1
    return result


def copies_wanted(chain: Mapping[ObjectId, BlobRecord], least: int) -> set[ObjectId]:
    """Return the contents that `least` others or more depend on; none if `least` is 0."""
    return {oid for oid, count in dependants(chain).items() if count >= least} if least else set()


def is_copy(one: BlobRecord, other: BlobRecord) -> bool:
    """Return True if two encodings of a content are the same one, in different places."""
    facts = [(record.codec, record.references, record.location.length) for record in (one, other)]
    return facts[0] == facts[1] and one.location != other.location


def make_copies(store: ObjectStore, wanted: Iterable[BlobRecord]) -> None:
    """Store each blob a second time, where a fault of the medium hardly reaches both.

    A loose blob is put into a pack, one of a pack becomes loose. Durable on return.
    """
    with store.begin() as batch:
        for record in wanted:
            body = store.read(record.id, record.location)
            if record.location.is_loose:
                kind = EntryKind.TENSOR if record.kind == "tensor" else EntryKind.LITERAL
                batch.put(kind, record.id, body)
            else:
                with batch.loose(record.id) as draft:
                    draft.write(body)
        batch.commit()
