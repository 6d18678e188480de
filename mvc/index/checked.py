"""The record of what a check of the repository found clean (docs/decisions/012). Derived, like all of the index."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, insert, select
from xxhash import xxh3_64_intdigest

from mvc.errors import StorageError
from mvc.index.database import Database
from mvc.index.tables import check, checked_files, checked_objects, state
from mvc.store.fs import FileStatus
from mvc.store.stored_files import FileSort, StoredFiles
from mvc.types import ObjectId, object_id, raw_id
from mvc.version import __version__

__all__ = ["CheckRecord", "describes", "recall", "remember"]

_LOGGER: Final = logging.getLogger(__name__)
_MASK: Final = (1 << 63) - 1
"""SQLite's integers have a sign."""
_TABLES: Final = (check, checked_files, checked_objects)


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """What was found clean.

    Parameters
    ----------
    operation : ObjectId
        The newest operation: its line of operations was read to the beginning.
    rows : int
        Fingerprint of what the index says of `files` and `commits`, which is what the store says.
    files : StoredFiles
        The files that were read.
    commits, tags : frozenset of ObjectId
        Those whose every commit, manifest and content was found in `files`.
    """

    operation: ObjectId
    rows: int
    files: StoredFiles
    commits: frozenset[ObjectId]
    tags: frozenset[ObjectId]

    @property
    def seal(self) -> int:
        """A checksum of all of it, by this release: another one may find fault with what this one found clean."""
        parts = (
            *(__version__, self.operation, self.rows, sorted(self.commits), sorted(self.tags)),
            [(int(sort), sorted(files.items())) for sort, files in sorted(self.files.items())],
        )
        return xxh3_64_intdigest(repr(parts).encode()) & _MASK


def describes(database: Database, operation: ObjectId) -> bool:
    """Return whether the index describes an operation, whatever else may be wrong with it."""
    with database.still() as connection:
        return [row[0] for row in _raw(connection, state)] == [raw_id(operation)]


def recall(database: Database) -> CheckRecord | None:
    """Return what the last check found; None if it is not known, or no longer what was written."""
    with database.still() as connection:
        row = connection.execute(select(check)).one_or_none()
        if row is None:
            return None
        raw_files, raw_objects = _raw(connection, checked_files), _raw(connection, checked_objects)
    try:
        found = CheckRecord(row.operation, row.rows, _files(raw_files), *_objects(raw_objects))
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.seal == row.seal else None


def remember(database: Database, record: CheckRecord, before: CheckRecord | None) -> None:
    """Write down what a check found, in the place of `before`, with which it began.

    Nothing is written if another check has come first, or if the index cannot be written: then the next check reads
    more than it would have to.
    """
    try:
        with database.updating() as connection:
            if before is None:
                for table in _TABLES:
                    connection.execute(delete(table))
            elif connection.execute(select(check.c.seal)).scalar_one_or_none() != before.seal:
                return
            _write(connection, record, before)
    except StorageError as error:
        _LOGGER.info("what the check found is not remembered: %s", error)


def _write(connection: Connection, record: CheckRecord, before: CheckRecord | None) -> None:
    new_files = list(_new_files(record.files, before.files if before else {}))
    new_objects = [
        {"id": oid, "kind": kind}
        for kind, ids, known in (
            ("commit", record.commits, before.commits if before else ()),
            ("tag", record.tags, before.tags if before else ()),
        )
        for oid in ids.difference(known)
    ]
    connection.execute(delete(check))
    connection.execute(insert(check).values(operation=record.operation, rows=record.rows, seal=record.seal))
    for table, values in ((checked_files, new_files), (checked_objects, new_objects)):
        if values:
            connection.execute(insert(table).prefix_with("OR REPLACE"), values)


def _new_files(files: StoredFiles, known: StoredFiles) -> Iterator[Mapping[str, object]]:
    for sort, found in files.items():
        there = known.get(sort, {})
        for oid, status in found.items():
            if there.get(oid) != status:
                yield {"sort": int(sort), "id": oid, **status._asdict()}


def _raw(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    """Return rows without any decoding: there are as many as there are files."""
    cursor = connection.exec_driver_sql(str(select(table))).cursor
    assert cursor is not None, "a query has rows"
    return list(cursor.fetchall())


def _files(raw: Iterable[tuple[Any, ...]]) -> StoredFiles:
    files: dict[FileSort, dict[ObjectId, FileStatus]] = {sort: {} for sort in FileSort}
    for sort, oid, *status in raw:
        files[FileSort(sort)][object_id(oid)] = FileStatus(*status)
    return files


def _objects(raw: Iterable[tuple[Any, ...]]) -> tuple[frozenset[ObjectId], frozenset[ObjectId]]:
    """Return the commits and the tags."""
    kinds: dict[str, list[ObjectId]] = {"commit": [], "tag": []}
    for oid, kind in raw:
        kinds[kind].append(object_id(oid))
    return frozenset(kinds["commit"]), frozenset(kinds["tag"])
