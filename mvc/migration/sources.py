"""From planned files to what a commit reads. git's own blobs are copied beside the repository as long as that takes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mvc.errors import IntegrityError, StorageError
from mvc.migration.git import Git, Objects
from mvc.migration.plan import DiskFile, GitBlob, LfsObject, PlannedFile
from mvc.repo.sources import FileSource
from mvc.repo.worktree import Stamp

__all__ = ["Sources"]


class Sources:
    """Opens the files of a plan.

    Parameters
    ----------
    objects : Objects or None
        git's, if files come from there.
    spool : Path
        A directory for copies, whose leftovers somebody sweeps if their names end in ``.tmp``.
    opaque : bool
        Keep damaged files as literal bytes.
    """

    def __init__(self, objects: Objects | None, spool: Path, *, opaque: bool) -> None:
        self._objects = objects
        self._spool = spool
        self._opaque = opaque
        self._verified: set[LfsObject] = set()

    @classmethod
    @contextmanager
    def of(cls, source: Path, spool: Path, *, git: bool, opaque: bool) -> Iterator[Sources]:
        """Yield what opens the files that come from `source`."""
        with ExitStack() as stack:
            objects = stack.enter_context(Git(source).objects()) if git else None
            yield cls(objects, spool, opaque=opaque)

    @contextmanager
    def open(self, files: Iterable[PlannedFile]) -> Iterator[tuple[FileSource, ...]]:
        """Yield what a commit of `files` reads, for a ``with`` block.

        Raises
        ------
        IntegrityError
            If an object of git-lfs is not what its pointer says.
        """
        copies: list[Path] = []
        try:
            yield tuple(self._source(file, copies) for file in files)
        finally:
            for copy in copies:
                with suppress(OSError):
                    copy.unlink()

    def _source(self, file: PlannedFile, copies: list[Path]) -> FileSource:
        origin = file.origin
        if isinstance(origin, GitBlob):
            origin = self._copied(origin, copies)
        place = FileSource(origin.file, file.path, file.mode, origin.stamp, file.size, self._opaque)
        if isinstance(origin, LfsObject) and origin not in self._verified:
            _verify(place, origin.sha256)
            self._verified.add(origin)
        return place

    def _copied(self, blob: GitBlob, copies: list[Path]) -> DiskFile:
        assert self._objects is not None, "blobs of git are planned for git only"
        try:
            self._spool.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(".tmp", "import-", self._spool)
            copies.append(Path(name))
            with os.fdopen(handle, "wb") as out:
                self._objects.copy(blob.oid, out)
            return DiskFile(copies[-1], Stamp.of(copies[-1].stat()))
        except OSError as error:
            raise StorageError(f"{self._spool} cannot be written: {error.strerror}") from error


def _verify(source: FileSource, sha256: str) -> None:
    """Read a file and compare it with its hash. Whatever reads it later is told if it changes."""
    running = hashlib.sha256()
    for chunk in source.chunks():
        running.update(chunk)
    if running.hexdigest() != sha256:
        raise IntegrityError(
            f"{source.path}: the git-lfs object {sha256} holds {running.hexdigest()}; no branch was moved",
            hint="git lfs fsck, then git lfs fetch --all",
        )
