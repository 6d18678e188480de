"""What is damaged and has been replaced: the files below ``.mvc/corrupt`` (spec-v1, section 11)."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from mvc.errors import AlreadyExistsError, MalformedError, NotFoundError
from mvc.store.fs import FileSystem
from mvc.store.tmp import Temporaries

__all__ = ["Quarantine"]

_CHUNK: Final = 1 << 20
"""Bytes copied at once where the file system has no hard links."""


class Quarantine:
    """Sets files aside: nothing is deleted, and nothing here is read as an object again.

    A file is first given a second name here (`keep`), then, when whatever replaces it is durable, loses its old one
    (`remove`). In between it serves as before, so a crash at any point loses nothing, and both calls may be repeated.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "corrupt"
        self._fs = fs
        self._temporaries = Temporaries(root, fs)

    def keep(self, path: Path) -> Path:
        """Give a file a second name, ``corrupt/NAME.NUMBER``, durably, and return it; NotFoundError if it is gone.

        The number is the lowest that is free. A file that has a name here already keeps that.
        """
        self._fs.mkdir(self.directory)
        for number in count(1):
            target = self.directory / f"{path.name}.{number}"
            with suppress(AlreadyExistsError):
                self._link(path, target)
                break
        self._fs.fsync_dir(self.directory)
        self._fs.fsync_dir(self.directory.parent)
        return target

    def remove(self, path: Path) -> None:
        """Take the old name from a file that has been kept; the directory is for the caller to flush."""
        with suppress(NotFoundError):
            self._fs.unlink(path)

    def names(self) -> list[str]:
        """Return the names of what has been set aside, sorted."""
        return sorted(self._fs.names(self.directory))

    def _link(self, path: Path, target: Path) -> None:
        try:
            self._fs.link(path, target)
        except MalformedError:  # too large for what stands for a link where there are none
            if self._fs.size(target) is not None:
                raise AlreadyExistsError(f"{target} exists") from None
            self._copy(path, target)

    def _copy(self, path: Path, target: Path) -> None:
        source = self._fs.open_read(path)
        try:
            with self._temporaries.draft() as draft:
                while chunk := self._fs.pread(source, _CHUNK, draft.size):
                    draft.write(chunk)
                draft.publish(target)
        finally:
            self._fs.close(source)
