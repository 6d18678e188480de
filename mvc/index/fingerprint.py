"""What the index says, in one number: whether it still says what it said, and whether that is what the store says.

A fingerprint is the sum of a hash for each row. So that of several sets of rows is the sum of theirs, whatever their
order, and rows that were only ever worked out from the store are compared with rows that were read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Table, select
from xxhash import xxh3_64_intdigest

from mvc.index import rows
from mvc.index.database import Database
from mvc.index.records import BlobRecord, CommitRecord
from mvc.index.tables import Id, blobs, commits, metadata, objects, packs, parents, sides
from mvc.store.layout import StoredObject
from mvc.types import ObjectId, raw_id

__all__ = ["add_up", "history_print", "of_commits", "of_stored", "store_print"]

_MASK: Final = (1 << 63) - 1
"""Sums are kept to what an SQLite integer holds, which has a sign."""
_BATCH: Final = 1000
"""Rows that are fetched at once."""
_STORED: Final = (blobs, sides, objects)
"""What is said of files of the store; the first two values of a row are the object and its pack."""
_HISTORY: Final = (commits, parents, metadata)
"""What is said of commits; the first value of a row is the commit."""

_Raw = tuple[Any, ...]


def add_up(*prints: int) -> int:
    """Return the fingerprint of all rows of several sets that have none in common."""
    return sum(prints) & _MASK


def store_print(database: Database, *parts: Collection[ObjectId]) -> list[int]:
    """Return the fingerprints of what the index says of blobs and metadata objects, those of some files apart.

    Parameters
    ----------
    database : Database
        The index.
    *parts : collection of ObjectId
        The files, each in one part: packs, and loose blobs.

    Returns
    -------
    list of int
        For each part, and last for all files that are in none.
    """
    part_of = {raw_id(oid): number for number, part in enumerate(parts) for oid in part}
    totals = [0] * (len(parts) + 1)
    with database.still() as connection:
        for table in _STORED:
            for row in _read(connection, table):
                totals[part_of.get(row[1] or row[0], -1)] += _hash(table, row)
    return [total & _MASK for total in totals]


def history_print(database: Database, ids: Iterable[ObjectId]) -> int:
    """Return the fingerprint of all that the index says of the commits `ids`."""
    wanted = {raw_id(oid) for oid in ids}
    with database.still() as connection:
        found = (_hash(table, row) for table in _HISTORY for row in _read(connection, table) if row[0] in wanted)
        return sum(found) & _MASK


def of_stored(found: Iterable[BlobRecord], others: Iterable[StoredObject]) -> int:
    """Return the fingerprint of what the index would say of these encodings, and of these metadata objects."""
    total = 0
    for blob in found:
        pack = None if blob.location.pack is None else raw_id(blob.location.pack)
        total += _hash_of(blobs, rows.of_blob(blob, 0), pack)
        total += sum(_hash_of(sides, row, pack) for row in rows.of_references(blob, 0))
    for item in others:
        assert item.kind is not None
        assert item.location.pack is not None, "metadata objects lie in packs"
        row = rows.of_object((item.oid, item.kind.name.lower(), item.location), 0)
        total += _hash_of(objects, row, raw_id(item.location.pack))
    return total & _MASK


def of_commits(found: Iterable[CommitRecord]) -> int:
    """Return the fingerprint of what the index would say of these commits."""
    total = 0
    for commit in found:
        total += _hash_of(commits, rows.of_commit(commit))
        total += sum(_hash_of(parents, row) for row in rows.of_parents(commit))
        total += sum(_hash_of(metadata, row) for row in rows.of_metadata(commit))
    return total & _MASK


def _query(table: Table) -> str:
    """Return the statement that reads a table, packs by their ids instead of their numbers, without any decoding."""
    if "pack" not in table.columns:
        return str(select(table))
    columns = [packs.c.pack_id if column.name == "pack" else column for column in table.columns]
    return str(select(*columns).select_from(table).join(packs, packs.c.number == table.c.pack))


_QUERIES: Final = {table: _query(table) for table in (*_STORED, *_HISTORY)}
_SEEDS: Final = {table: number for number, table in enumerate(_QUERIES)}
"""So that no row of one table is taken for one of another."""
_IDS: Final = {
    table: frozenset(column.name for column in table.columns if isinstance(column.type, Id)) for table in _QUERIES
}


def _read(connection: Connection, table: Table) -> Iterator[_Raw]:
    cursor = connection.exec_driver_sql(_QUERIES[table]).cursor
    assert cursor is not None, "a query has rows"
    while found := cursor.fetchmany(_BATCH):
        yield from found


def _hash_of(table: Table, row: Mapping[str, object], pack: bytes | None = None) -> int:
    ids = _IDS[table]
    values = [
        pack if name == "pack" else bytes.fromhex(str(row[name])) if name in ids and row[name] else row[name]
        for name in table.columns.keys()  # noqa: SIM118 - these are no dictionary
    ]
    return _hash(table, tuple(values))


def _hash(table: Table, row: _Raw) -> int:
    return xxh3_64_intdigest(repr(row).encode(), _SEEDS[table])
