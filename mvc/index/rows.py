"""Between the rows of tables and the records that the index answers with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row
from xxhash import xxh3_64_intdigest

from mvc.index.records import BlobRecord, CommitRecord
from mvc.objects.blob import Reference
from mvc.store.layout import Location
from mvc.types import ObjectId

__all__ = [
    "blob_record",
    "commit_record",
    "location",
    "of_blob",
    "of_commit",
    "of_metadata",
    "of_object",
    "of_parents",
    "of_references",
    "reference",
]


def location(row: Row[Any]) -> Location:
    """Return where the object of a row of `blobs` or `objects`, joined with `packs`, lies."""
    return Location(row.pack_id, row.offset, row.length)


def blob_record(row: Row[Any], references: Sequence[Reference]) -> BlobRecord:
    """Return a row of `blobs`, joined with `packs`, with its side tensors, as a record."""
    return BlobRecord(
        row.id, row.kind, location(row), row.raw_bytes, row.codec, tuple(references), row.depth, row.chain_bytes
    )


def reference(row: Row[Any]) -> Reference:
    """Return a row of `sides` as what the blob says of the side tensor."""
    return Reference(row.role, row.side, row.depth)


def commit_record(row: Row[Any], parents: Sequence[ObjectId], metadata: Mapping[str, str]) -> CommitRecord:
    """Return a row of `commits`, with what the tables beside it say, as a record; ValueError if it is damaged."""
    record = CommitRecord(
        row.id,
        row.manifest,
        tuple(parents),
        row.position,
        row.time,
        row.author,
        row.message,
        {key: json.loads(value) for key, value in sorted(metadata.items())},
        row.logical_bytes,
        method=row.method,
        source=row.source,
    )
    if row.checksum != _checksum(record):
        raise ValueError(f"the row of commit {record.id} is not what was written")
    return record


def _checksum(commit: CommitRecord) -> int:
    """Return XXH3-64 of all that the index says of a commit, less one bit: SQLite's integers have a sign."""
    parts = (
        *(commit.id, commit.manifest, commit.parents, commit.position, commit.time, commit.author, commit.message),
        *(sorted(commit.metadata.items()), commit.logical_bytes, commit.method, commit.source),
    )
    return xxh3_64_intdigest(repr(parts).encode()) >> 1


def _of_place(id_: ObjectId, kind: str, place: Location, pack: int) -> dict[str, object]:
    return {"id": id_, "kind": kind, "pack": pack, "offset": place.offset, "length": place.length}


def of_object(item: tuple[ObjectId, str, Location], pack: int) -> dict[str, object]:
    """Return the row of `objects` for a metadata object in pack number `pack`."""
    return _of_place(*item, pack)


def of_blob(blob: BlobRecord, pack: int) -> dict[str, object]:
    """Return the row of `blobs` for a blob in pack number `pack`."""
    return _of_place(blob.id, blob.kind, blob.location, pack) | {
        "raw_bytes": blob.raw_bytes,
        "codec": blob.codec,
        "depth": blob.depth,
        "chain_bytes": blob.chain_bytes,
    }


def of_references(blob: BlobRecord, pack: int) -> Iterator[dict[str, object]]:
    """Yield the rows of `sides` for a blob in pack number `pack`."""
    for place, item in enumerate(blob.references):
        yield {"id": blob.id, "pack": pack, "place": place, "role": item.role, "side": item.id, "depth": item.depth}


def of_commit(commit: CommitRecord) -> dict[str, object]:
    """Return the row of `commits`."""
    return {
        "id": commit.id,
        "manifest": commit.manifest,
        "position": commit.position,
        "time": commit.time,
        "author": commit.author,
        "message": commit.message,
        "logical_bytes": commit.logical_bytes,
        "method": commit.method,
        "source": commit.source,
        "checksum": _checksum(commit),
    }


def of_parents(commit: CommitRecord) -> Iterator[dict[str, object]]:
    """Yield the rows of `parents`."""
    for place, parent in enumerate(commit.parents):
        yield {"child": commit.id, "place": place, "parent": parent}


def of_metadata(commit: CommitRecord) -> Iterator[dict[str, object]]:
    """Yield the rows of `metadata`."""
    for key, value in commit.metadata.items():
        yield {"commit_id": commit.id, "key": key, "value": json.dumps(value)}
