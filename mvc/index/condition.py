"""Whether the file of an index is whole, without changing it: opening a damaged one as a `Database` replaces it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mvc.index.tables import SCHEMA_VERSION

__all__ = ["condition"]


def condition(path: Path) -> tuple[bool, str | None]:
    """Return whether the index at `path` can be compared with the store, and what is wrong with its file.

    One that is missing, of another version, or that a writer is working on or died over cannot be compared, and
    nothing is wrong with it: the next command brings it up to date.

    Parameters
    ----------
    path : Path
        The file.
    """
    if not path.exists():
        return False, None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError:
        return False, None
    except sqlite3.DatabaseError as error:
        return False, str(error)
    return version == SCHEMA_VERSION and answer == "ok", None if answer == "ok" else str(answer)
