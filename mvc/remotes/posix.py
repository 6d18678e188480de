"""Remotes that are directories: on this machine, or on what it has mounted.

Keys are files, written as spec-v1 asks of any writer: complete and flushed under another name, then linked to their
own, so that of several writers one wins, and no lock is needed. Works on NFS.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from mvc.errors import (
    AlreadyExistsError,
    IntegrityError,
    MvcError,
    NotFoundError,
    ReadOnlyError,
    RemoteError,
    StorageError,
)
from mvc.remotes.engine import MAX_KEYS, Body, Capabilities, Engine, KeyInfo
from mvc.remotes.keys import FORMAT, HEADS, LOOSE, OPERATIONS, PACKS, PROBES, check_key, check_prefix, is_key
from mvc.remotes.schemes import RemoteUrl
from mvc.repo.layout import DIRECTORY
from mvc.store.fs import FileSystem
from mvc.store.local_fs import LocalFileSystem, translated
from mvc.store.tmp import Temporaries

__all__ = ["PosixEngine", "open_directory", "repository_directory"]

_PIECE: Final = 8 << 20
"""Bytes of a body that are in memory at once."""
_CONNECTIONS: Final = 4
"""Requests at once: disks gain little from more."""
_TOPS: Final = (HEADS, LOOSE, OPERATIONS, PACKS, PROBES)
"""The directories of keys: nothing else is ever walked."""


def repository_directory(path: Path) -> Path:
    """Return the directory that holds the keys: ``.mvc`` of a work tree, or `path` itself, which is or becomes bare."""
    inner = path / DIRECTORY
    return inner if _is_directory(inner) else path


def _is_directory(path: Path) -> bool:
    with translated("examine", path, writing=False):
        return path.is_dir()


class PosixEngine(Engine):
    """Keys as files of a directory.

    Parameters
    ----------
    path : Path
        A work tree, a bare repository, or a directory that becomes one.
    fs : FileSystem, optional
        Where to read and write.
    url : str, optional
        What messages call it; its path if not given.
    """

    def __init__(self, path: Path, fs: FileSystem | None = None, url: str | None = None) -> None:
        self.url = url or path.as_posix()
        with _failing(self.url):
            self.root = repository_directory(path)
        self._fs = fs or LocalFileSystem()
        self._temporaries = Temporaries(self.root, self._fs)

    @property
    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(connections=_CONNECTIONS, worktree=self.root.name == DIRECTORY)

    def list(self, prefix: str) -> Iterator[KeyInfo]:
        """See `Engine.list`."""
        check_prefix(prefix)
        count = 0
        for key in self._candidates(prefix):
            if key.startswith(prefix) and is_key(key):
                count += 1
                if count > MAX_KEYS:
                    raise IntegrityError(f"{self.url} lists more than {MAX_KEYS:,} keys")
                if (found := self._info(key)) is not None:  # None: removed since it was listed
                    yield found

    def read(self, key: str, offset: int, length: int) -> bytes:
        """See `Engine.read`."""
        with self._failing(key):
            handle = self._fs.open_read(self._path(key))
            try:
                data = self._fs.pread(handle, length, offset)
            finally:
                self._fs.close(handle)
        if len(data) != length:
            raise IntegrityError(f"{key} of {self.url} ends {length - len(data):,} bytes too early")
        return data

    def read_all(self, key: str, limit: int) -> bytes:
        """See `Engine.read_all`."""
        with self._failing(key):
            return self._fs.read_file(self._path(key), limit)

    def create(self, key: str, body: Body) -> bool:
        """See `Engine.create`."""
        path = self._path(key)
        with self._failing(key):
            created = self._fs.size(path) is None and self._claim(path, body)
            self._flush_names(path)
            return created

    def _claim(self, path: Path, body: Body) -> bool:
        """Write a file; return False if another writer was first."""
        for directory in (self.root, self.root / "tmp", *reversed(self._directories(path))):
            self._fs.mkdir(directory)
        with self._temporaries.draft() as draft:
            for piece in _pieces(body):
                draft.write(piece)
            with suppress(AlreadyExistsError):
                draft.claim(path)
                return True
        return False

    def _flush_names(self, path: Path) -> None:
        """Make the name of a file durable, and the directories that lead to it; also those that others have made.

        Whoever made them may not have got this far, and what is found there is relied on.
        """
        for directory in (*self._directories(path), self.root):
            self._fs.fsync_dir(directory)
        if path.parent == self.root:  # the file that makes a repository of a directory
            self._fs.fsync_dir(self.root.parent)

    def _directories(self, path: Path) -> tuple[Path, ...]:
        """Return the directories of a file below the root, the innermost first."""
        return tuple(self.root / parent for parent in path.relative_to(self.root).parents[:-1])

    def touch(self, key: str) -> bool:
        """See `Engine.touch`."""
        path = self._path(key)
        with self._failing(key):
            try:
                self._fs.touch(path)
            except (NotFoundError, ReadOnlyError):
                return False
        return True

    def delete(self, key: str) -> None:
        """See `Engine.delete`."""
        with self._failing(key):
            self._fs.unlink(self._path(key))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _candidates(self, prefix: str) -> Iterator[str]:
        """Yield names of files that may begin with `prefix`, one that is checked, in directories that hold keys."""
        if is_key(prefix):
            yield prefix
            return
        if FORMAT.startswith(prefix):
            yield FORMAT
        for top in _TOPS:
            if prefix.startswith(top):
                yield from self._files(prefix.rpartition("/")[0])
            elif top.startswith(prefix):
                yield from self._files(top.removesuffix("/"))

    def _info(self, key: str) -> KeyInfo | None:
        """Return what a listing says of a key; None if there is no file, or something else in its place."""
        path = self.root / key
        with self._failing(key), translated("examine", path, writing=False):
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return KeyInfo(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def _files(self, directory: str) -> Iterator[str]:
        """Yield the names of files below a directory, not following links."""
        path = self.root / directory
        with self._failing(directory), translated("list", path, writing=False):
            try:
                with os.scandir(path) as entries:
                    kinds = sorted((entry.name, _kind(entry)) for entry in entries)
            except FileNotFoundError:
                return
        for name, kind in kinds:
            if kind == "directory":
                yield from self._files(f"{directory}/{name}")
            elif kind == "file":
                yield f"{directory}/{name}"

    def _failing(self, key: str) -> AbstractContextManager[None]:
        return _failing(f"{key} of {self.url}")


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn errors of the medium into errors of the remote."""
    try:
        yield
    except (NotFoundError, IntegrityError):
        raise
    except StorageError as error:
        raise RemoteError(f"{what}: {error.message}", hint=error.hint, transient=error.transient) from error
    except MvcError as error:
        raise RemoteError(f"{what}: {error.message}", hint=error.hint) from error


def _kind(entry: os.DirEntry[str]) -> Literal["directory", "file", "other"]:
    """Return what an entry of a directory is, not following links."""
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _pieces(body: Body) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    with translated("read", body, writing=False), body.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def open_directory(url: RemoteUrl, _: Mapping[str, str]) -> PosixEngine:
    """Return the engine of a directory; see `mvc.remotes.schemes`."""
    return PosixEngine(Path(url.path))
