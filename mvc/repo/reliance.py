"""Referring to what is stored already, so that garbage collection sees that it is wanted."""

from __future__ import annotations

from collections.abc import Mapping

from mvc.index import BlobRecord
from mvc.store.batch import WriteBatch
from mvc.types import ObjectId

__all__ = ["rely_on"]


def rely_on(oid: ObjectId, there: Mapping[ObjectId, BlobRecord], batch: WriteBatch) -> bool:
    """Have the batch protect a stored content and all that it needs; False if a part of that is gone."""
    chain, pending = {oid}, [oid]
    while pending:
        found = there.get(pending.pop())
        if found is None or not batch.rely_on(found.id, found.location):
            return False
        below = {item.id for item in found.references} - chain
        chain |= below
        pending += below
    return True
