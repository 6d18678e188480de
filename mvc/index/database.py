"""The index as a file: opened, checked, changed and asked. Only this package speaks SQL.

The rollback journal is used rather than the write-ahead log: it works on network file systems, leaves one file, and the
index takes one short write a commit.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import DatabaseError, InvalidRequestError, OperationalError
from sqlalchemy.pool import NullPool, Pool, StaticPool

from mvc.errors import StorageError
from mvc.index import rows
from mvc.index.connections import Connections
from mvc.index.records import BlobRecord, CodecTotal, CommitRecord
from mvc.index.tables import SCHEMA, SCHEMA_VERSION, blobs, commits, metadata, objects, packs, parents, sides, state
from mvc.objects.blob import Reference
from mvc.store.layout import EntryKind, Location, StoredObject
from mvc.types import ObjectId

__all__ = ["Database", "Update"]

_BATCH: Final = 500
"""Ids in one query: SQLite before 3.32 takes at most 999 variables."""
_BUSY_SECONDS: Final = 60
"""Seconds to wait for another process's write; an update takes milliseconds, a rebuild seconds."""
_ENGINES: Final = 8
"""Files whose queries stay compiled in memory; a process works with one repository or two."""
_DAMAGE: Final = (DatabaseError, InvalidRequestError, TypeError, ValueError)
"""What reading a damaged file comes to. SQLite notices little: two rows where one must be, text that is not UTF-8, also
in its own messages, a number where an id must stand, or a row without its checksum."""
_SIDE_FILES: Final = ("-journal", "-wal", "-shm")

_BLOBS: Final = select(blobs, packs.c.pack_id).join(packs)
_SIDES: Final = select(sides).order_by(sides.c.id, sides.c.pack, sides.c.place)
_BLOBS_OF, _SIDES_OF = (
    query.where(table.c.id.in_(bindparam("ids", expanding=True))) for query, table in ((_BLOBS, blobs), (_SIDES, sides))
)
"""Made once: a commit asks for every tensor, and to make these queries takes about as long as to answer them."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one synchronisation adds and removes.

    Parameters
    ----------
    operation : ObjectId
        The operation that the index then describes.
    packs, gone : sequence of ObjectId
        New packs, and packs that no longer exist.
    blobs : sequence of BlobRecord
        New blobs, loose or of `packs`, and known ones that are to be rebuilt in another way now.
    lost : sequence of ObjectId
        Loose blobs that no longer exist.
    objects : sequence of (ObjectId, str, Location)
        New metadata objects, with their kinds.
    commits : sequence of CommitRecord
        New commits, and known ones whose positions are others now.
    lost_commits : sequence of ObjectId
        Commits that no longer exist.
    complete : bool
        False if a stored commit was left out because it, or its manifest, cannot be read: either may come later.
    """

    operation: ObjectId
    packs: Sequence[ObjectId] = ()
    gone: Sequence[ObjectId] = ()
    blobs: Sequence[BlobRecord] = ()
    lost: Sequence[ObjectId] = ()
    objects: Sequence[tuple[ObjectId, str, Location]] = ()
    commits: Sequence[CommitRecord] = ()
    lost_commits: Sequence[ObjectId] = ()
    complete: bool = True


class Database:
    """One ``index.sqlite``.

    A missing, damaged or outdated file is replaced by an empty one: everything in it is derived.

    Parameters
    ----------
    path : Path or None
        The file; None for an index in memory.

    Raises
    ------
    StorageError
        If the file can be neither opened nor made.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._engine = _engine_of(path) if path else _engine("sqlite://", StaticPool)
        self._connections = Connections(self._engine, path)
        try:
            self._prepare()
        except OperationalError as error:
            raise StorageError(f"index {path} cannot be opened: {error.orig}", transient=True) from error
        except _DAMAGE:
            self._replace()

    def _prepare(self) -> None:
        if self.path:
            _remove_side_files(self.path)
        with self._engine.begin() as connection:
            if not _is_current(connection):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                if not _is_current(connection):  # another process may have been faster
                    _make_tables(connection)

    def clear(self) -> None:
        """Empty the index, whatever state it is in."""
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                _make_tables(connection)
        except OperationalError as error:
            raise StorageError(f"index {self.path} cannot be emptied: {error.orig}", transient=True) from error
        except _DAMAGE:
            self._replace()

    def _replace(self) -> None:
        """Put an empty index in the place of a file that is none."""
        self._engine.dispose()
        try:
            if self.path:
                self.path.unlink(missing_ok=True)
            self._prepare()
        except (OSError, *_DAMAGE) as error:
            raise StorageError(
                f"index {self.path} cannot be made again: {error}", hint=f"remove {self.path}"
            ) from error

    def connected(self) -> AbstractContextManager[None]:
        """Have this thread ask over one connection in a ``with`` block, instead of making one for every question."""
        return self._connections.kept()

    def updating(self) -> AbstractContextManager[Connection]:
        """Let no other process change the index in a ``with`` block: what is read in it is still so when it is written.

        What was done is dropped if the block raises.
        """
        return self._translated(self._connections.writing())

    @contextmanager
    def still(self) -> Iterator[Connection]:
        """Have all that this thread asks in a ``with`` block answered from one state of the index.

        For who wants to know what condition it is in: a file that turns out to be damaged stays.
        """
        with self._connections.still() as connection, self._translated(nullcontext(connection)):
            yield connection

    @contextmanager
    def _translated(self, connection: AbstractContextManager[Connection]) -> Iterator[Connection]:
        """Turn the errors of a transaction into ours. A file that turns out to be damaged is removed: see the hint."""
        looking = self._connections.is_still
        try:
            with connection as opened:
                yield opened
        except OperationalError as error:
            raise StorageError(f"index {self.path} failed: {error.orig}", hint="mvc reindex", transient=True) from error
        except _DAMAGE as error:
            if self.path and not looking:
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
            raise StorageError(
                f"index {self.path} is damaged: {error}", hint="run the command again: it makes the index again"
            ) from error

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._translated(self._connections.reading())

    def operation(self) -> ObjectId | None:
        """Return the operation that the index describes, or None if it is empty."""
        with self._reading() as connection:
            return connection.execute(select(state.c.operation)).scalar_one_or_none()

    def is_complete_at(self, operation: ObjectId) -> bool:
        """Return True if the index describes `operation`, and no stored commit was left out of it."""
        with self._reading() as connection:
            known = connection.execute(select(state)).one_or_none()
        return known is not None and known.operation == operation and known.complete

    def forget_operation(self) -> None:
        """Have the index describe no operation, so that the next `synchronise` compares it with the store.

        To be called before objects are removed: nobody may then trust what it says of them.
        """
        with self.updating() as connection:
            connection.execute(delete(state))

    def packs(self) -> set[ObjectId]:
        """Return the packs whose entries the index holds."""
        with self._reading() as connection:
            return set(connection.execute(select(packs.c.pack_id).where(packs.c.pack_id.is_not(None))).scalars())

    def loose(self) -> dict[ObjectId, int]:
        """Return the loose blobs that the index holds, and their lengths."""
        query = select(blobs.c.id, blobs.c.length).join(packs).where(packs.c.pack_id.is_(None))
        with self._reading() as connection:
            return {row.id: row.length for row in connection.execute(query)}

    def apply(self, update: Update) -> None:
        """Carry out `update`, all of it or nothing. What is there already stays as it is."""
        with self.updating() as connection:
            for batch in _batches(update.gone):
                connection.execute(delete(packs).where(packs.c.pack_id.in_(batch)))
            _add(connection, packs, [{"pack_id": pack} for pack in update.packs])
            numbers = _numbers(
                connection, {b.location.pack for b in update.blobs} | {o[2].pack for o in update.objects}
            )
            for batch in _batches(update.lost):
                connection.execute(delete(blobs).where(blobs.c.id.in_(batch), blobs.c.pack == numbers[None]))
            new_blobs = [rows.of_blob(blob, numbers[blob.location.pack]) for blob in update.blobs]
            _add(connection, blobs, new_blobs, "OR REPLACE")  # deletes what it replaces, and the sides of that
            new_sides = [row for b in update.blobs for row in rows.of_references(b, numbers[b.location.pack])]
            _add(connection, sides, new_sides)
            _add(connection, objects, [rows.of_object(item, numbers[item[2].pack]) for item in update.objects])
            for batch in _batches(update.lost_commits):
                connection.execute(delete(commits).where(commits.c.id.in_(batch)))
            _add(connection, commits, [rows.of_commit(commit) for commit in update.commits], "OR REPLACE")
            _add(connection, parents, [row for commit in update.commits for row in rows.of_parents(commit)])
            _add(connection, metadata, [row for commit in update.commits for row in rows.of_metadata(commit)])
            connection.execute(delete(state))
            connection.execute(insert(state).values(operation=update.operation, complete=update.complete))

    def blobs(self, ids: Iterable[ObjectId]) -> dict[ObjectId, BlobRecord]:
        """Return how each of `ids` is stored: of several encodings that can be decoded, the one quickest to rebuild."""
        found: dict[ObjectId, BlobRecord] = {}
        wanted = list(ids)  # before the block, in which whoever makes them could not ask
        with self._reading() as connection:
            records = [record for batch in _batches(wanted) for record in _blob_records(connection, batch)]
        for record in records:
            if record.reachable and (record.id not in found or record.cost < found[record.id].cost):
                found[record.id] = record
        return found

    def touched_by(self, ids: Iterable[ObjectId]) -> bool:
        """Return True if an encoding of one of `ids`, or one that needs one of them, is known."""
        own, needed = (select(column).limit(1) for column in (blobs.c.id, sides.c.side))
        wanted = list(ids)
        with self._reading() as connection:
            return any(
                connection.execute(own.where(blobs.c.id.in_(batch))).first()
                or connection.execute(needed.where(sides.c.side.in_(batch))).first()
                for batch in _batches(wanted)
            )

    def all_blobs(self) -> list[BlobRecord]:
        """Return every stored encoding."""
        with self._reading() as connection:
            return _blob_records(connection)

    def objects(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        """Return where the metadata objects `ids` lie."""
        query = select(objects, packs.c.pack_id).join(packs)
        wanted = list(ids)
        with self._reading() as connection:
            return {row.id: rows.location(row) for row in _rows_of(connection, query, objects, wanted)}

    def stored_objects(self, ids: Iterable[ObjectId]) -> dict[ObjectId, StoredObject]:
        """Return the metadata objects `ids`, and what they are; of several copies any one."""
        query = select(objects, packs.c.pack_id).join(packs)
        wanted = list(ids)
        with self._reading() as connection:
            found = _rows_of(connection, query, objects, wanted)
        return {row.id: StoredObject(row.id, EntryKind[row.kind.upper()], rows.location(row)) for row in found}

    def objects_without(self, gone: Collection[ObjectId]) -> set[ObjectId]:
        """Return the metadata objects that are stored elsewhere than in the packs `gone`."""
        query = select(objects.c.id, packs.c.pack_id).join(packs)
        with self._reading() as connection:
            return {row.id for row in connection.execute(query) if row.pack_id not in gone}

    def unread_commits(self) -> list[ObjectId]:
        """Return the commits that are stored, but were left out: they, or their manifests, could not be read."""
        query = select(objects.c.id).distinct().where(objects.c.kind == "commit")
        with self._reading() as connection:
            return list(connection.execute(query.where(objects.c.id.not_in(select(commits.c.id)))).scalars())

    def commits(self, ids: Iterable[ObjectId]) -> dict[ObjectId, CommitRecord]:
        """Return those of `ids` that are commits."""
        wanted = list(ids)
        with self._reading() as connection:  # one state of it: a rebuild between two would part rows from their parents
            found = _rows_of(connection, select(commits), commits, wanted)
            return {record.id: record for record in _commit_records(connection, found)}

    def all_commits(self) -> list[CommitRecord]:
        """Return every commit."""
        with self._reading() as connection:
            return _commit_records(connection, connection.execute(select(commits)).all())

    def are_parents(self, ids: Iterable[ObjectId]) -> bool:
        """Return True if one of `ids` is a parent of a known commit."""
        query, wanted = select(parents.c.parent).limit(1), list(ids)
        with self._reading() as connection:
            return any(
                connection.execute(query.where(parents.c.parent.in_(batch))).first() for batch in _batches(wanted)
            )

    def commits_up_to(self, position: int, count: int) -> list[CommitRecord]:
        """Return at most `count` commits at or below `position`, highest first."""
        query = select(commits).where(commits.c.position <= position)
        query = query.order_by(commits.c.position.desc(), commits.c.id).limit(count)
        with self._reading() as connection:
            return _commit_records(connection, connection.execute(query).all())

    def with_prefix(self, prefix: str, most: int = 8) -> list[ObjectId]:
        """Return at most `most` commits whose ids begin with `prefix`, some hexadecimal digits."""
        low, high = ObjectId(prefix.ljust(64, "0")), ObjectId(prefix.ljust(64, "f"))
        query = select(commits.c.id).where(commits.c.id.between(low, high)).order_by(commits.c.id).limit(most)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def codec_totals(self) -> list[CodecTotal]:
        """Return what each codec stores."""
        sums = func.count(), func.sum(blobs.c.raw_bytes), func.sum(blobs.c.length)
        query = select(blobs.c.codec, *sums).group_by(blobs.c.codec).order_by(blobs.c.codec)
        with self._reading() as connection:
            return [CodecTotal(*row) for row in connection.execute(query)]


@lru_cache(maxsize=_ENGINES)
def _engine_of(path: Path) -> Engine:
    """Return the engine of a file, which holds no connection: a query is compiled once for each engine."""
    return _engine(f"sqlite:///{path}", NullPool)


def _engine(url: str, pool: type[Pool]) -> Engine:
    engine = create_engine(url, poolclass=pool, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's connection
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = DELETE")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _remove_side_files(path: Path) -> None:
    """Remove what SQLite left beside a database that is gone: it would be applied to the new one.

    Only what was there before the database was seen to be missing: another thread may be making it just now.
    """
    found = [(side, status.st_ino) for side in _side_files(path) if (status := _status(side))]
    if path.exists():
        return
    for side, inode in found:
        try:
            if (status := _status(side)) and status.st_ino == inode:
                side.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"index {path} cannot be made: {error.strerror}") from error


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_current(connection: Connection) -> bool:
    return bool(connection.exec_driver_sql("PRAGMA user_version").scalar_one() == SCHEMA_VERSION)


def _make_tables(connection: Connection) -> None:
    SCHEMA.drop_all(connection)
    SCHEMA.create_all(connection)
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _batches(ids: Iterable[ObjectId]) -> Iterator[list[ObjectId]]:
    iterator: Iterator[ObjectId] = iter(ids)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _add(connection: Connection, table: Table, values: list[dict[str, object]], known: str = "OR IGNORE") -> None:
    if values:
        connection.execute(insert(table).prefix_with(known), values)


def _numbers(connection: Connection, wanted: set[ObjectId | None]) -> dict[ObjectId | None, int]:
    """Return the row number by pack, None standing for loose blobs."""
    query = select(packs.c.pack_id, packs.c.number)
    result: dict[ObjectId | None, int] = {}
    loose = connection.execute(query.where(packs.c.pack_id.is_(None))).first()
    if loose is None:
        connection.execute(insert(packs).values(pack_id=None))
        loose = connection.execute(query.where(packs.c.pack_id.is_(None))).one()
    result[None] = loose.number
    for batch in _batches(pack for pack in wanted if pack is not None):
        result |= {row.pack_id: row.number for row in connection.execute(query.where(packs.c.pack_id.in_(batch)))}
    return result


def _rows_of(connection: Connection, query: Select[Any], table: Table, ids: Iterable[ObjectId]) -> list[Row[Any]]:
    """Return the rows of `query` whose id in `table` is one of `ids`."""
    return [row for batch in _batches(ids) for row in connection.execute(query.where(table.c.id.in_(batch))).all()]


def _blob_records(connection: Connection, ids: Sequence[ObjectId] | None = None) -> list[BlobRecord]:
    """Return the encodings of `ids`, or all, with their side tensors."""
    found = connection.execute(_BLOBS if ids is None else _BLOBS_OF, {"ids": ids}).all()
    references: dict[tuple[ObjectId, int], list[Reference]] = {}
    if any(row.depth for row in found):  # else none of them has a side tensor
        for row in connection.execute(_SIDES if ids is None else _SIDES_OF, {"ids": ids}):
            references.setdefault((row.id, row.pack), []).append(rows.reference(row))
    return [rows.blob_record(row, references.get((row.id, row.pack), ())) for row in found]


def _commit_records(connection: Connection, found: Sequence[Row[Any]]) -> list[CommitRecord]:
    """Return commits with their parents and metadata, in the order of `found`."""
    edges: dict[ObjectId, list[ObjectId]] = {}
    facts: dict[ObjectId, dict[str, str]] = {}
    for batch in _batches(row.id for row in found):
        query = select(parents).where(parents.c.child.in_(batch)).order_by(parents.c.child, parents.c.place)
        for edge in connection.execute(query):
            edges.setdefault(edge.child, []).append(edge.parent)
        for fact in connection.execute(select(metadata).where(metadata.c.commit_id.in_(batch))):
            facts.setdefault(fact.commit_id, {})[fact.key] = fact.value
    return [rows.commit_record(row, edges.get(row.id, []), facts.get(row.id, {})) for row in found]
