"""Removing files that others may be about to rely on (spec-v1, section 9; docs/decisions/011).

A file is condemned, looked at once more, and only then removed. While it is condemned it still exists: whoever finds an
object nowhere else gives its file back its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from mvc.errors import AlreadyExistsError, NotFoundError
from mvc.store.fs import FileSystem

__all__ = ["Evictions"]

_SUFFIX: Final = ".condemned"


class Evictions:
    """Condemned files below one directory, which is that of a store.

    All paths are those that the files have while they are not condemned.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to rename and remove.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self._root = root
        self._fs = fs

    def condemn(self, path: Path) -> bool:
        """Take its name from a file; False if it is gone already."""
        try:
            self._fs.replace(path, _condemned(path))
        except NotFoundError:
            return False
        return True

    def keep(self, path: Path) -> None:
        """Keep what a file holds now, if there is one, as condemned, when it is replaced by another of its name."""
        with suppress(NotFoundError, AlreadyExistsError):  # what an interrupted repack kept is older still
            self._fs.link(path, _condemned(path))

    def modified(self, path: Path) -> float | None:
        """Return when a condemned file was written, or last relied on, in seconds; None if it is gone."""
        return self._fs.modified(_condemned(path))

    def size(self, path: Path) -> int | None:
        """Return the bytes of a condemned file; None if it is gone."""
        return self._fs.size(_condemned(path))

    def spare(self, path: Path) -> None:
        """Give a condemned file its name back, unless the name is taken or the file gone."""
        if self.rescue(path):
            self.remove(path)

    def rescue(self, path: Path) -> bool:
        """Let a condemned file be found under its name again; False if there is none.

        Whoever condemned it may still remove the other name.
        """
        try:
            with suppress(AlreadyExistsError):
                self._fs.link(_condemned(path), path)
        except NotFoundError:
            return False
        return True

    def bring_back(self, path: Path) -> None:
        """Put what was kept in the place of what has replaced it."""
        with suppress(NotFoundError):
            self._fs.replace(_condemned(path), path)

    def remove(self, path: Path) -> None:
        """Remove a condemned file for good."""
        with suppress(NotFoundError):  # another process was faster
            self._fs.unlink(_condemned(path))

    def condemned(self, *directories: Path) -> Iterator[Path]:
        """Yield the condemned files of `directories`."""
        for directory in directories:
            for name in sorted(self._fs.names(directory)):
                if name.endswith(_SUFFIX):
                    yield directory / name.removesuffix(_SUFFIX)


def _condemned(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)
