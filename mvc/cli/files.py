"""Files that people name on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from mvc.errors import NotFoundError, StorageError

__all__ = ["read_file", "write_file"]


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


def write_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises
    ------
    StorageError
        If that fails.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
