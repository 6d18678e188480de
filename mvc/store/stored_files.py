"""Every file that a store consists of, with what the system says of it: read nothing, and know what has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

from mvc.errors import InvalidInputError
from mvc.store.fs import FileStatus, FileSystem
from mvc.store.loose import FANOUT
from mvc.types import ObjectId, object_id

__all__ = ["FileSort", "StoredFiles", "stored_files"]


class FileSort(IntEnum):
    """What a file of the store is. The numbers stand in the index."""

    OPERATION = 0
    PACK = 1
    PACK_INDEX = 2
    BLOB = 3


StoredFiles = Mapping[FileSort, Mapping[ObjectId, FileStatus]]
"""Files by what they are and the id that names them; every sort is there."""

_SUFFIXES: Final = {
    "ops": {"": FileSort.OPERATION},
    "packs": {".pack": FileSort.PACK, ".idx": FileSort.PACK_INDEX},
    "objects": {".blob": FileSort.BLOB},
}
"""Directories in the order in which they are listed, and what names end with. Whatever an operation leads to was stored
before it, so what is listed after the operations is all that they need."""


def stored_files(root: Path, fs: FileSystem) -> StoredFiles:
    """Return all files of the store at `root`; names that are not those of objects are left out.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to look.
    """
    found: dict[FileSort, dict[ObjectId, FileStatus]] = {sort: {} for sort in FileSort}
    for name, suffixes in _SUFFIXES.items():
        for directory in [root / name] if name == "packs" else _fans(root / name, fs):
            fan = "" if name == "packs" else directory.name
            for file, status in fs.statuses(directory).items():
                stem, dot, ending = file.partition(".")
                sort = suffixes.get(dot + ending)
                if sort is not None and stem.startswith(fan):
                    try:
                        found[sort][object_id(stem)] = status
                    except InvalidInputError:
                        continue
    return found


def _fans(directory: Path, fs: FileSystem) -> Iterator[Path]:
    return (directory / name for name in sorted(fs.names(directory)) if len(name) == FANOUT)
