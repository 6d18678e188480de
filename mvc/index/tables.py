"""Tables of the index. Ids are stored as 32 raw bytes and seen as hexadecimal text."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from mvc.types import ObjectId, object_id, raw_id

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "blobs",
    "check",
    "checked_files",
    "checked_objects",
    "commits",
    "metadata",
    "objects",
    "packs",
    "parents",
    "sides",
    "state",
]

SCHEMA_VERSION: Final = 7
"""Raised with every change of a table; an index of another version is dropped and rebuilt."""

SCHEMA: Final = MetaData()


class Id(TypeDecorator[ObjectId]):
    """An object id, stored as its 32 bytes: half the size of its text."""

    impl = LargeBinary(32)
    cache_ok = True

    def process_bind_param(self, value: ObjectId | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        """Turn an id into what SQLite stores."""
        return None if value is None else raw_id(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> ObjectId | None:  # noqa: ANN401, ARG002
        """Turn what SQLite stores into an id."""
        return None if value is None else object_id(value)


def _in_pack() -> tuple[Column[ObjectId], Column[int], Column[str], Column[int], Column[int]]:
    """Return the columns that say where an object lies; it may lie in several packs."""
    return (
        Column("id", Id, primary_key=True),
        Column("pack", ForeignKey("packs.number", ondelete="CASCADE"), primary_key=True),
        Column("kind", String, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("length", BigInteger, nullable=False),
    )


state = Table("state", SCHEMA, Column("operation", Id, nullable=False), Column("complete", Boolean(), nullable=False))
"""One row: how far the index has followed the repository, and whether no commit was left out."""

packs = Table(
    "packs", SCHEMA, Column("number", Integer, primary_key=True), Column("pack_id", Id, unique=True, nullable=True)
)
"""Packs whose entries the index holds; one row without an id stands for loose blobs."""

objects = Table("objects", SCHEMA, *_in_pack())
"""Where metadata objects lie."""

blobs = Table(
    "blobs",
    SCHEMA,
    *_in_pack(),
    Column("raw_bytes", BigInteger, nullable=False),
    Column("codec", String, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("chain_bytes", BigInteger, nullable=False),
)
"""Where encodings lie, and what they are."""

sides = Table(
    "sides",
    SCHEMA,
    Column("id", Id, primary_key=True),
    Column("pack", Integer, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("role", String, nullable=False),
    Column("side", Id, nullable=False),
    Column("depth", Integer, nullable=False),
    ForeignKeyConstraint(["id", "pack"], ["blobs.id", "blobs.pack"], ondelete="CASCADE"),
)
"""Side tensors of encodings, in the order of the blob; `depth` is what the blob says."""

commits = Table(
    "commits",
    SCHEMA,
    Column("id", Id, primary_key=True),
    Column("manifest", Id, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("author", String, nullable=False),
    Column("message", String, nullable=False),
    Column("logical_bytes", BigInteger, nullable=False),
    Column("method", String, nullable=True),
    Column("source", Id, nullable=True),
    Column("checksum", BigInteger, nullable=False),
)
"""Commits; `position` grows along every line of history. The checksum covers the row and those of its parents and its
metadata: unlike places of objects, nothing that is read later contradicts them if they were damaged."""

parents = Table(
    "parents",
    SCHEMA,
    Column("child", Id, ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("parent", Id, nullable=False),
)
"""Edges of history."""

metadata = Table(
    "metadata",
    SCHEMA,
    Column("commit_id", Id, ForeignKey("commits.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)
"""Metrics and other facts of commits, as JSON text."""

check = Table(
    "checked",
    SCHEMA,
    Column("operation", Id, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("seal", BigInteger, nullable=False),
)
"""At most one row: what a check found clean (docs/decisions/012). `rows` is the fingerprint of what the index then
said, `seal` a checksum of this row and the two tables below."""

checked_files = Table(
    "checked_files",
    SCHEMA,
    Column("sort", Integer, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    Column("inode", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The files that the check read, as they were before."""

checked_objects = Table(
    "checked_objects",
    SCHEMA,
    Column("id", Id, primary_key=True),
    Column("kind", String, nullable=False),
    sqlite_with_rowid=False,
)
"""The commits and tags of which everything that they reach was found in those files."""

Index("commits_by_position", commits.c.position)
Index("blobs_by_pack", blobs.c.pack)
Index("sides_by_side", sides.c.side)
Index("objects_by_pack", objects.c.pack)
Index("parents_by_parent", parents.c.parent)
