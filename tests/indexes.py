"""What indexes say, to be compared."""

from __future__ import annotations

from pathlib import Path

from mvc.index import Database, synchronise
from mvc.repo.session import Session
from mvc.store.object_store import ObjectStore


def answers(database: Database) -> tuple[object, ...]:
    """Return what an index says of everything stored."""
    blobs = sorted(database.all_blobs(), key=lambda record: (record.id, record.location.pack or ""))
    commits = sorted(database.all_commits(), key=lambda record: record.id)
    objects = sorted(database.objects_without(()))
    return database.packs(), database.loose(), blobs, commits, objects, database.operation()


def rebuilt(session: Session, path: Path) -> Database:
    """Return an index made anew from the store."""
    database = Database(path)
    synchronise(database, ObjectStore(session.layout.directory), session.refs.newest()[1])
    return database
