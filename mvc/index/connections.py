"""Connections to an index: a new one for every transaction, or one for all that a thread reads for a while.

None is kept beyond a block that says so, and what is kept is never written to: if the file was removed meanwhile, its
journal would have the name of another one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import local

from sqlalchemy import Connection, Engine

__all__ = ["Connections"]

_Identity = tuple[int, int] | None
"""Device and inode of a file; None if there is none."""


class _Kept(local):
    """What a thread keeps."""

    wanted = False
    connection: Connection | None = None
    file: _Identity = None
    current: Connection | None = None
    """That of the transaction that this thread is in, whatever it does."""
    looking = False


class Connections:
    """Makes connections to one index.

    Parameters
    ----------
    engine : Engine
        Its pool keeps none of a file.
    path : Path or None
        The file; None for an index in memory.
    """

    def __init__(self, engine: Engine, path: Path | None) -> None:
        self._engine = engine
        self._path = path
        self._kept = _Kept()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Have this thread read over one connection in the block: making one takes as long as a few queries.

        It holds no lock between them. If another file has come to the path, it is left for a connection to that.
        """
        outermost, self._kept.wanted = not self._kept.wanted, True
        try:
            yield
        finally:
            if outermost:
                self._kept.wanted = False
                self._drop()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection of its own; what was done is committed when the block ends, dropped when it raises.

        Nobody else writes meanwhile, and what this thread reads or writes inside of the block is part of it.
        """
        if self._kept.current is not None:
            yield self._kept.current
            return
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._kept.current = connection
            try:
                yield connection
            finally:
                self._kept.current = None

    @contextmanager
    def still(self) -> Iterator[Connection]:
        """Yield a connection; all that this thread reads in the block, by whatever way, is of one state.

        Nobody else can complete a write meanwhile, so the block should be short.
        """
        with self.reading() as connection:
            before = self._kept.current, self._kept.looking
            self._kept.current, self._kept.looking = connection, True
            try:
                yield connection
            finally:
                self._kept.current, self._kept.looking = before

    @property
    def is_still(self) -> bool:
        """Whether this thread is in a block of `still`."""
        return self._kept.looking

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection, the one that is kept if there shall be one. All queries in the block see one state."""
        if self._kept.current is not None:
            yield self._kept.current
            return
        connection = self._current()
        if connection is None:
            with self._engine.begin() as connection:
                self._hold_still(connection)
                yield connection
            return
        with connection.begin():
            self._hold_still(connection)
            yield connection

    def _hold_still(self, connection: Connection) -> None:
        """Have all queries of a transaction see one state: the driver begins none before a write.

        An index in memory has one connection for all threads, which cannot begin twice, and no other writer.
        """
        if self._path is not None:
            connection.exec_driver_sql("BEGIN")

    def _current(self) -> Connection | None:
        """Return the connection that is kept, made first if there is none to the file that is there now."""
        if self._path is None or not self._kept.wanted:
            return None
        file = _identity(self._path)  # before it is opened: one that is replaced meanwhile is seen the next time
        if self._kept.connection is None or self._kept.file != file:
            self._drop()
            self._kept.connection, self._kept.file = self._engine.connect(), file
        return self._kept.connection

    def _drop(self) -> None:
        connection, self._kept.connection = self._kept.connection, None
        if connection is not None:
            connection.close()


def _identity(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
