"""An open repository: the workspace, the store, the index, and the threads that work on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mvc.errors import IntegrityError, MvcError, NotFoundError, StorageError
from mvc.index import Additions, BlobRecord, CommitRecord, Database, extend, read_metadata, synchronise
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import COMMIT, MANIFEST, TAG
from mvc.objects.manifest import Manifest, SegmentKind
from mvc.repo.layout import Layout
from mvc.repo.refs import RefState
from mvc.repo.remembering import remembering
from mvc.repo.shallow import read_shallow, shallow_version
from mvc.repo.thinned import refuse_thinned
from mvc.repo.workspace import Workspace
from mvc.settings import Settings
from mvc.store.fs import FileSystem
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

__all__ = ["Promisor", "Session"]

_LOGGER = logging.getLogger(__name__)
_MANIFESTS_KEPT = 8
"""Decoded manifests kept in memory; a verb compares two or three."""


class Promisor(Protocol):
    """Brings contents that were left out of a partial repository."""

    def __call__(self, wanted: Mapping[ObjectId, tuple[SegmentKind, int]]) -> None:
        """Have contents stored here, given their kinds and decoded bytes, all of them or none that is not whole.

        Raises
        ------
        RemoteError
            If no remote that promises them can be reached.
        IntegrityError
            If one lacks what it promised, or sends what it should not.
        """


def _whole(record: BlobRecord | None) -> bool:
    return record is not None and record.reachable


class Session(Workspace):
    """A repository with its objects.

    Parameters
    ----------
    layout, fs, settings
        As for `Workspace`.

    Attributes
    ----------
    promisor : Promisor or None
        What brings contents that a partial repository lacks, if whoever opened it says so.
    """

    def __init__(self, layout: Layout, fs: FileSystem | None = None, settings: Settings | None = None) -> None:
        super().__init__(layout, fs, settings)
        self.store = ObjectStore(layout.directory, self.fs)
        self.promisor: Promisor | None = None
        self._shallow: tuple[object, frozenset[ObjectId]] = (None, frozenset())
        self._manifest = remembering(self._read_manifest, _MANIFESTS_KEPT)

    @classmethod
    def find(cls, start: Path) -> Session:
        """Open the repository that `start` lies in; see `Workspace.find`."""
        return cls(Workspace.find(start).layout)

    @cached_property
    def index(self) -> Database:
        """The index, brought up to date when it is first used.

        One that is damaged is made again. Where it cannot be written, as on a full disk or a read-only one, it is made
        in memory: whoever can read the store can ask it everything.
        """
        operation = self.refs.newest()[1]
        try:
            return self._synchronised(Database(self.layout.index), operation)
        except StorageError as error:
            _LOGGER.info("the index cannot be used as it is: %s", error)
            return self._remade(operation, damaged=not error.transient)

    def _remade(self, operation: ObjectId, *, damaged: bool) -> Database:
        """Return a new index in the place of a damaged one, or in memory."""
        if damaged:
            with suppress(StorageError):
                database = Database(self.layout.index)
                database.clear()
                return self._synchronised(database, operation)
        return self._synchronised(Database(None), operation)

    def _synchronised(self, database: Database, operation: ObjectId) -> Database:
        synchronise(database, self.store, operation)
        return database

    def refresh(self, *, force: bool = False, again: Collection[ObjectId] = ()) -> None:
        """Bring the index up to date with what other processes, or this one, have stored since.

        Parameters
        ----------
        force : bool
            Also if no operation says that anything has changed.
        again : collection of ObjectId
            Loose blobs that were replaced, and are read again even if they are as long as before.
        """
        synchronise(self.index, self.store, self.refs.newest()[1], force=force, again=again)

    def follow(self, state: RefState, added: Additions | None = None) -> None:
        """Bring the index up to date after this process has moved refs to `state`, having stored `added` before.

        That takes no longer where more is stored, unless other processes have made operations meanwhile. Only for who
        knows of everything that this process has stored since the index was last brought up to date.
        """
        before = state.appended_to
        if before is None or not extend(self.index, self.store, before, state.operation, added or Additions()):
            self.refresh()

    def follow_objects(self, added: Additions) -> None:
        """Bring the index up to date with what this process has stored without moving a ref."""
        operation = self.refs.newest()[1]
        if not extend(self.index, self.store, operation, operation, added):
            self.refresh(force=True)  # no operation tells that there is something new

    def forget_index(self) -> None:
        """Have nobody trust the index until it was compared with the store: to be called before anything is removed.

        That is so after a crash, too.
        """
        self.index.forget_operation()
        if self.index.path:
            handle = self.fs.open_read(self.index.path)
            try:
                self.fs.fsync(handle)
            finally:
                self.fs.close(handle)
            self.fs.fsync_dir(self.index.path.parent)  # of a journal that came back SQLite would make use

    @contextmanager
    def protected(self, command: str, *commits: ObjectId | None) -> Iterator[None]:
        """Have everything that `commits` reach stay while the block reads it, also if no ref holds it any more.

        Raises
        ------
        ThinnedError
            If one of them is thinned: to be called by whoever is about to read contents of a commit.
        """
        pins = [commit for commit in commits if commit]
        with ExitStack() as stack:
            with suppress(MvcError):  # as on a disk that is full or read-only: what can be read can be read there too
                stack.enter_context(self.store.leases.take(command, pins))
            refuse_thinned(self.refs.state().thinned, pins)  # afterwards: from here on contents stay
            yield

    @property
    def threads(self) -> int:
        """Worker threads to use."""
        return self.settings.core.threads or len(os.sched_getaffinity(0))

    @contextmanager
    def pool(self) -> Iterator[Executor]:
        """Yield worker threads; work not begun is dropped when the block ends."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="mvc")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def manifest(self, commit: ObjectId) -> Manifest:
        """Return the manifest of a commit.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        return self._manifest(self.record(commit).manifest)

    def commit(self, oid: ObjectId) -> Commit:
        """Return a commit, with all that it says.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        return Commit.decode(self._metadata(oid, COMMIT))

    def tag(self, oid: ObjectId) -> Tag:
        """Return a tag object.

        Raises
        ------
        IntegrityError
            If it is missing or corrupt.
        """
        return Tag.decode(self._metadata(oid, TAG))

    def record(self, commit: ObjectId) -> CommitRecord:
        """Return what the index knows of a commit.

        Raises
        ------
        NotFoundError
            If there is no such commit.
        """
        found = self.records([commit])
        if commit not in found:
            raise NotFoundError(f"there is no commit {commit}", hint="mvc log")
        return found[commit]

    def records(self, ids: Iterable[ObjectId]) -> dict[ObjectId, CommitRecord]:
        """Return what the index knows of those of `ids` that are commits.

        Refs may be newer than the index: then another process has made a commit since, and the index follows.
        """
        wanted = set(ids)
        found = self.index.commits(wanted)
        if len(found) < len(wanted):
            self.refresh()
            found = self.index.commits(wanted)
        return {oid: record.without(absent) for oid, record in found.items()} if (absent := self.absent) else found

    def page(self, position: int, count: int) -> list[CommitRecord]:
        """Return at most `count` commits at or below `position`, highest first."""
        found, absent = self.index.commits_up_to(position, count), self.absent
        return [record.without(absent) for record in found] if absent else found

    @property
    def absent(self) -> frozenset[ObjectId]:
        """The commits that are absent by design (spec-v1, section 12), as they are listed now."""
        version = shallow_version(self.layout)
        if version != self._shallow[0]:
            self._shallow = version, read_shallow(self.layout)
        return self._shallow[1]

    @property
    def promisors(self) -> list[str]:
        """The remotes that promise what a partial repository lacks."""
        return [name for name, remote in self.settings.remotes.items() if remote.promisor]

    def supply(self, wanted: Mapping[tuple[SegmentKind, ObjectId], int]) -> None:
        """Have those of the contents `wanted` brought here that a partial repository lacks, in one batch.

        To be called by who is about to read contents, once it knows them all and before it has changed anything.

        Parameters
        ----------
        wanted : mapping of (SegmentKind, ObjectId) to int
            Decoded bytes of contents, as manifests have them.

        Raises
        ------
        RemoteError
            If no remote that promises them can be reached.
        """
        if self.promisor is None:
            return
        known = self.index.blobs({oid for _, oid in wanted})
        lacking = {oid: (kind, size) for (kind, oid), size in wanted.items() if not _whole(known.get(oid))}
        if lacking:
            self.promisor(lacking)
            self.refresh(force=True)

    def chains(self, ids: Iterable[ObjectId]) -> dict[ObjectId, BlobRecord]:
        """Return where the contents `ids`, and everything that these need, are stored; less what is missing."""
        result: dict[ObjectId, BlobRecord] = {}
        pending = set(ids)
        while pending:
            found = self.index.blobs(pending)
            result |= found
            pending = {item.id for record in found.values() for item in record.references} - result.keys()
        return result

    def _read_manifest(self, oid: ObjectId) -> Manifest:
        return Manifest.decode(self._metadata(oid, MANIFEST))

    def _metadata(self, oid: ObjectId, domain: str) -> bytes:
        """Return a metadata object from where the index says, or from wherever the store finds it."""
        location = self.index.objects([oid]).get(oid)
        try:
            return read_metadata(self.store, oid, domain, location)
        except NotFoundError as error:
            raise IntegrityError(f"object {oid} is missing from the store", hint="mvc fsck") from error
