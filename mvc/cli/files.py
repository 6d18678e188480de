"""Files that people name on the command line."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mvc.errors import NotFoundError, StorageError

__all__ = ["read_file", "replacing"]


def read_file(path: Path) -> bytes:
    """Return what is in a file.

    Raises
    ------
    NotFoundError
        If there is none.
    StorageError
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to be written, which takes the place of `path`, whole or not at all.

    Raises
    ------
    StorageError
        If that fails.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with draft.open("xb") as file:
                yield file
            os.replace(draft, path)  # noqa: PTH105 - Path.replace() would return another path
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
