"""Commits of SQLite, seen from outside: the index is written by its library, not through `FileSystem`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, event

__all__ = ["watched"]


@contextmanager
def watched(before: Callable[[Path], None]) -> Iterator[None]:
    """Have `before` called, in the ``with`` block, before each commit that changes a database file of this process.

    What it raises is raised by the commit, and the transaction is rolled back. The end of a transaction that only read
    is left out: SQLite has a rollback journal beside the file exactly while there are changes to commit.

    Parameters
    ----------
    before : callable
        ``before(path)`` is given the file, which then still holds what it held before the transaction.
    """

    def on_commit(connection: Connection) -> None:
        """Tell files that are about to change from the rest."""
        database = connection.engine.url.database
        if database and Path(f"{database}-journal").exists():
            before(Path(database))

    event.listen(Engine, "commit", on_commit)
    try:
        yield
    finally:
        event.remove(Engine, "commit", on_commit)
