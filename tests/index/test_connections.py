"""Connections that are kept for a while."""

from __future__ import annotations

import sqlite3
from contextlib import nullcontext, suppress
from threading import Thread

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from mvc.index.connections import Connections


@pytest.fixture
def path(tmp_path):
    """Return a database with one row, 1."""
    return make(tmp_path / "a.sqlite", 1)


def make(path, value):
    """Make a database of one row."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE t (value INTEGER)")
        connection.execute("INSERT INTO t VALUES (?)", [value])
    connection.close()
    return path


@pytest.fixture
def connections(path):
    """Return connections to it."""
    return Connections(create_engine(f"sqlite:///{path}", poolclass=NullPool), path)


def ask(connections):
    """Return the row, and what it was read through."""
    with connections.reading() as connection:
        return connection.exec_driver_sql("SELECT value FROM t").scalar_one(), connection


def write_and_fail(connections):
    """Change the row, but raise before that is committed."""
    with connections.writing() as connection:
        connection.exec_driver_sql("UPDATE t SET value = 5")
        raise ZeroDivisionError


def test_new_ones(connections):
    """Every query has its own, which is closed behind it."""
    first, second = ask(connections)[1], ask(connections)[1]
    assert first is not second
    assert first.closed
    assert second.closed


def test_a_kept_one(connections):
    """In a block all queries have the same, also behind a block inside; it is closed when the block ends."""
    with connections.kept():
        with connections.kept():
            first = ask(connections)[1]
        second = ask(connections)[1]
        assert first is second
        assert not first.closed
    assert first.closed


def test_no_lock(connections, path):
    """Others write while it is kept, and what they wrote is read."""
    with connections.kept():
        assert ask(connections)[0] == 1
        other = sqlite3.connect(path, timeout=0)
        with other:
            other.execute("UPDATE t SET value = 2")
        other.close()
        assert ask(connections)[0] == 2


def test_another_file(connections, path, tmp_path):
    """What has come to the path is read, not what was there."""
    with connections.kept():
        first = ask(connections)[1]
        make(tmp_path / "b.sqlite", 3).replace(path)
        assert ask(connections)[0] == 3
        assert first.closed


def test_other_threads(connections):
    """Keep none of their own, and do not share this one's."""
    found = []
    with connections.kept():
        first = ask(connections)[1]
        thread = Thread(target=lambda: found.append(ask(connections)[1]))
        thread.start()
        thread.join()
    assert found[0] is not first


def test_writing(connections):
    """Goes through another one, and an error takes back what was written."""
    with connections.kept():
        first = ask(connections)[1]
        with connections.writing() as connection:
            assert connection is not first
            connection.exec_driver_sql("UPDATE t SET value = 4")
        assert ask(connections)[0] == 4
        with pytest.raises(ZeroDivisionError):
            write_and_fail(connections)
        assert ask(connections)[0] == 4


@pytest.mark.parametrize("kept", [False, True])
def test_a_block_sees_one_state(path, connections, kept):
    """Whatever another process writes between two queries of a block, they agree."""
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    seen = []
    with connections.kept() if kept else nullcontext(), connections.reading() as connection:
        seen.append(connection.exec_driver_sql("SELECT value FROM t").scalar_one())
        with suppress(sqlite3.OperationalError):  # it has to wait, as long as somebody reads
            other.execute("UPDATE t SET value = 7")
        seen.append(connection.exec_driver_sql("SELECT value FROM t").scalar_one())
    assert seen == [1, 1]
    other.execute("UPDATE t SET value = 8")
    assert ask(connections)[0] == 8
    other.close()
