"""Quick checks that read only what has changed since an earlier one found the rest clean (docs/decisions/012).

Nothing is reported from here. Either everything is as clean as a check of everything would find it, or nothing is said,
and everything is checked.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mvc.errors import MvcError
from mvc.index import BlobRecord, CheckRecord, CommitRecord, Database, chained, placed, synchronise
from mvc.index.checked import describes, recall, remember
from mvc.index.condition import condition
from mvc.index.fingerprint import add_up, history_print, of_commits, of_stored, store_print
from mvc.objects.operation import Refs
from mvc.repo.check_copies import Copies, Copy, State, check_copies
from mvc.repo.check_history import History, check_history
from mvc.repo.check_index import record_of
from mvc.repo.check_log import LogTail, check_tail, read_operation
from mvc.repo.diagnosis import Diagnosis, wrong_settings
from mvc.repo.progress import Progress
from mvc.repo.session import Session
from mvc.repo.worktree import is_settled
from mvc.store.fs import FileStatus
from mvc.store.layout import StoredObject
from mvc.store.pack_check import PackCheck, check_pack
from mvc.store.stored_files import FileSort, StoredFiles, stored_files
from mvc.types import ObjectId

__all__ = ["Recheck", "Snapshot", "keep", "recheck", "take_snapshot"]

_TRIES: Final = 3
"""Attempts, since another process may move the head between two looks."""
_SUSPECT: Final = -1
"""Time of a file that must be read again in any case."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a store before they are read.

    Parameters
    ----------
    time_ns : int
        When; nanoseconds since 1970-01-01T00:00:00Z.
    files : StoredFiles
        What the system said of them.
    """

    time_ns: int
    files: StoredFiles

    def statuses(self, sort: FileSort, ids: Iterable[ObjectId]) -> dict[ObjectId, FileStatus]:
        """Return what to remember of those files that there are."""
        files = self.files[sort]
        return {oid: self._lasting(files[oid]) for oid in ids if oid in files}

    def _lasting(self, status: FileStatus) -> FileStatus:
        """Return the status of a file, or one that none has if it may yet change without a new time."""
        settled = is_settled(status.mtime_ns, status.ctime_ns, self.time_ns)
        return status if settled else status._replace(ctime_ns=_SUSPECT)


@dataclass(frozen=True, slots=True)
class Recheck:
    """A clean repository, most of which was known to be clean.

    Parameters
    ----------
    operations, commits, contents, copies : int
        How many were checked now.
    known : int
        Commits that were known.
    record : CheckRecord
        All that is known now.
    """

    operations: int
    commits: int
    contents: int
    copies: int
    known: int
    record: CheckRecord


def take_snapshot(session: Session) -> Snapshot:
    """Look at all files of a repository, before any of them is read."""
    return Snapshot(time.time_ns(), stored_files(session.layout.directory, session.fs))


def keep(session: Session, snapshot: Snapshot, found: Diagnosis) -> None:
    """Remember that a check of everything found nothing wrong.

    Only if it has read the files of the snapshot, which was taken before, and no others; and if the index knows of
    everything that the refs reach.
    """
    agreement, line = found.agreement, found.log.line
    if agreement is None or not line or not _is_all(snapshot.files, found):
        return
    files = {
        FileSort.OPERATION: snapshot.statuses(FileSort.OPERATION, found.log.operations),
        FileSort.PACK: snapshot.statuses(FileSort.PACK, agreement.packs),
        FileSort.PACK_INDEX: snapshot.statuses(FileSort.PACK_INDEX, agreement.packs),
        FileSort.BLOB: snapshot.statuses(FileSort.BLOB, agreement.loose),
    }
    commits, tags = frozenset(found.history.commits), found.history.tags
    record = CheckRecord(line[0], agreement.rows, files, commits, tags)
    remember(Database(session.layout.index), record, None)


def _is_all(files: StoredFiles, found: Diagnosis) -> bool:
    """Return whether the files that were read are those that were there before."""
    loose = {copy.oid for copy in found.copies.all() if copy.location.is_loose}
    return (
        files[FileSort.OPERATION].keys() == found.log.operations.keys()
        and files[FileSort.PACK].keys() == {pack.pack for pack in found.packs}
        and files[FileSort.BLOB].keys() == loose
    )


def recheck(session: Session, progress: Progress) -> Recheck | None:
    """Check what is new; None if there is no record of an earlier check, or anything is not as it should be.

    Parameters
    ----------
    session : Session
        The repository.
    progress : callable
        Told how far the work is.
    """
    try:
        if wrong_settings(session) or condition(session.layout.index) != (True, None):
            return None
        database = Database(session.layout.index)
        for _ in range(_TRIES):
            heads = session.store.head.files()
            if not heads or None in heads.values():
                return None
            with database.still():  # what is listed from here on is all that the index knows of, or more
                current = describes(database, heads[max(heads)] or ObjectId(""))
                before = recall(database) if current else None
                found = _Recheck(session, database, before, progress).run(heads) if before else None
            if not current:
                synchronise(database, session.store, heads[max(heads)] or ObjectId(""))
                continue
            if found is not None and found.record != before:
                remember(database, found.record, before)
            return found
    except MvcError:
        return None  # a check of everything says what is wrong
    return None


@dataclass(frozen=True, slots=True)
class _Dirty:
    """What must be read.

    Parameters
    ----------
    operations : frozenset of ObjectId
        Operations that are new, or whose files have changed.
    touched : frozenset of ObjectId
        Packs and loose blobs whose files have changed: every commit does that to those that it relies on.
    new : frozenset of ObjectId
        Packs and loose blobs that are new.
    """

    operations: frozenset[ObjectId]
    touched: frozenset[ObjectId]
    new: frozenset[ObjectId]


def _compare(known: StoredFiles, found: StoredFiles) -> _Dirty | None:
    """Return what has changed; None if anything is gone."""
    if any(files.keys() - found[sort].keys() for sort, files in known.items()):
        return None
    changed = {
        sort: {oid for oid, status in files.items() if known[sort].get(oid) != status} for sort, files in found.items()
    }
    packs = changed[FileSort.PACK] | (changed[FileSort.PACK_INDEX] & found[FileSort.PACK].keys())
    dirty = packs | changed[FileSort.BLOB]
    old = dirty & (known[FileSort.PACK].keys() | known[FileSort.BLOB].keys())
    return _Dirty(frozenset(changed[FileSort.OPERATION]), frozenset(old), frozenset(dirty - old))


class _Recheck:
    """One attempt, while the index stands still.

    Each step returns None, or raises one of our errors, if anything is not as it should be.
    """

    def __init__(self, session: Session, database: Database, before: CheckRecord, progress: Progress) -> None:
        self._session = session
        self._store = session.store
        self._database = database
        self._before = before
        self._progress = progress

    def run(self, heads: Mapping[int, ObjectId | None]) -> Recheck | None:
        """Check what is new, from what the files of the head say on."""
        snapshot = take_snapshot(self._session)
        dirty = _compare(self._before.files, snapshot.files)
        tail = check_tail(self._store, heads, self._before.operation) if dirty else None
        if dirty is None or tail is None or not self._operations(dirty.operations):
            return None
        copies = self._copies(dirty, snapshot.files)
        store_rows = None if copies is None else self._store_rows(dirty, copies)
        if copies is None or store_rows is None:
            return None
        history = self._history(tail.refs)
        history_rows = None if history is None else self._history_rows(history)
        if history is None or history_rows is None:
            return None
        rows = add_up(self._before.rows, store_rows, history_rows)
        record = self._record(snapshot, tail, dirty, history, rows)
        sizes = len(tail.new), len(history.commits), len(history.contents), sum(1 for _ in copies.all())
        return Recheck(*sizes, len(self._before.commits), record)

    def _operations(self, ids: Iterable[ObjectId]) -> bool:
        """Return whether these operations can be read, whether the head leads to them or not."""
        return not any(isinstance(read_operation(self._store, oid), str) for oid in ids)

    def _copies(self, dirty: _Dirty, files: StoredFiles) -> Copies | None:
        """Check the files that are new or have changed, each on its own."""
        ids = sorted(dirty.touched | dirty.new)
        packs: list[PackCheck] = []
        for pack in ids:
            if pack in files[FileSort.PACK]:
                found = check_pack(self._session.fs, self._store.packs.directory, pack, quick=True)
                if found.problem is not None or found.index_problem is not None:
                    return None
                packs.append(found)
        loose = [oid for oid in ids if oid in files[FileSort.BLOB]]
        with self._session.pool() as pool:
            copies = check_copies(self._session, packs, loose, pool, self._progress, quick=True)
        return None if any(copy.state is State.CORRUPT for copy in copies.all()) else copies

    def _store_rows(self, dirty: _Dirty, copies: Copies) -> int | None:
        """Compare what the index says of all files; return the fingerprint of what it says of new ones.

        Of files that did not change it must say what it did. What it says of those that were read is worked out anew.
        """
        touched, new, rest = store_print(self._database, dirty.touched, dirty.new)
        known = add_up(rest, touched, history_print(self._database, self._before.commits))
        blobs = self._chained(copies)
        indexed = dirty.new & {*self._database.packs(), *self._database.loose()} if dirty.new else frozenset()
        agrees = (
            known == self._before.rows
            and touched == _print_of(dirty.touched, blobs, copies)
            and new == _print_of(indexed, blobs, copies)
            and all(blob.reachable for blob in blobs)
        )
        self._indexed = indexed
        return new if agrees else None

    def _chained(self, copies: Copies) -> list[BlobRecord]:
        """Return the encodings that were read, with their chains, which may rest on what is known."""
        records = [record_of(copy) for copy in copies.all() if not copy.is_metadata]
        needed = self._database.blobs({oid for record in records for oid in (item.id for item in record.references)})
        return chained(records, {oid: record for oid, record in needed.items() if self._is_known(record)})

    def _is_known(self, record: BlobRecord) -> bool:
        pack = record.location.pack
        return pack in self._before.files[FileSort.PACK] if pack else record.id in self._before.files[FileSort.BLOB]

    def _history(self, refs: Refs) -> History | None:
        """Follow the refs down to what is known."""
        history = check_history(self._store, self._find, refs, self._before.commits | self._before.tags)
        stored = self._database.blobs(oid for _, oid in history.contents)
        there = all(
            oid in stored and (stored[oid].kind, stored[oid].raw_bytes) == (kind, length)
            for (kind, oid), length in history.contents.items()
        )
        return history if there and not (history.unreadable or history.disputed or history.strange) else None

    def _find(self, oid: ObjectId) -> Copy | None:
        """Return where the index says that a metadata object is; it was compared with the files."""
        found = self._database.stored_objects([oid]).get(oid)
        return None if found is None else Copy(oid, found.kind, found.location, State.GOOD)

    def _history_rows(self, history: History) -> int | None:
        """Compare what the index says of new commits; return the fingerprint of that."""
        found = self._database.commits({oid for commit in history.commits.values() for oid in commit.parents})
        known = {oid: record for oid, record in found.items() if oid in self._before.commits}
        new = [CommitRecord.of(commit, history.sizes[commit.manifest]) for commit in history.commits.values()]
        expected = of_commits(placed(new, known))
        return expected if history_print(self._database, history.commits) == expected else None

    def _record(self, snapshot: Snapshot, tail: LogTail, dirty: _Dirty, history: History, rows: int) -> CheckRecord:
        """Return what is known now: files that the index does not know are read again each time."""
        before, packs_and_blobs = self._before.files, dirty.touched | self._indexed
        read = {sort: dirty.operations if sort is FileSort.OPERATION else packs_and_blobs for sort in FileSort}
        files = {sort: {**before[sort], **snapshot.statuses(sort, read[sort])} for sort in FileSort}
        operation = tail.new[0] if tail.new else self._before.operation
        commits, tags = self._before.commits | history.commits.keys(), self._before.tags | history.tags
        return CheckRecord(operation, rows, files, commits, tags)


def _print_of(files: Collection[ObjectId], blobs: Iterable[BlobRecord], copies: Copies) -> int:
    """Return the fingerprint of what the index should say of what lies in some files."""
    others = (StoredObject(copy.oid, copy.kind, copy.location) for copy in copies.all() if copy.is_metadata)
    return of_stored(
        [blob for blob in blobs if (blob.location.pack or blob.id) in files],
        [item for item in others if (item.location.pack or item.oid) in files],
    )
