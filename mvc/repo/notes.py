"""Metrics of commits that were measured after these were made, kept as git keeps notes (spec-v1, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from mvc.errors import ConflictError, MalformedError
from mvc.objects.commit import Metadata
from mvc.objects.manifest import FileEntry
from mvc.objects.refnames import NOTES
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.materialize import ContentReader
from mvc.repo.metrics import MOST_BYTES, Metrics, decode_metrics, encode_metrics
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.repo.sources import BytesSource
from mvc.repo.tree import Selection
from mvc.types import ObjectId, object_id

__all__ = ["METRICS", "Notes", "metrics_of", "record_metrics"]

METRICS: Final = NOTES + "metrics"
"""The ref."""

_AT_ONCE_BYTES: Final = 8 << 10
"""Bytes of all notes up to which they are read together. That is some 200; they take as long as 24 of them apart."""

_ATTEMPTS: Final = 100
"""Tries to move the ref; each failure means that another process has recorded metrics."""


class Notes:
    """The metrics that are noted, as of one state of the refs.

    Parameters
    ----------
    session : Session
        The repository.
    state : RefState
        The refs. Where they have no notes, asking costs nothing.
    """

    def __init__(self, session: Session, state: RefState) -> None:
        self._session = session
        self.commit = object_id(state.refs[METRICS]) if METRICS in state.refs else None
        self._read: dict[str, bytes] = {}

    def of(self, commit: ObjectId) -> Metrics:
        """Return what is noted of a commit; nothing if nothing is.

        Raises
        ------
        MalformedError
            If its note is none.
        IntegrityError
            If that is missing or corrupt.
        """
        file = self._files.get(_path(commit))
        if file is None:
            return {}
        if file.size > MOST_BYTES:
            raise MalformedError(f"the note {file.path} has {file.size:,} bytes; {MOST_BYTES:,} are allowed")
        if file.path not in self._read:
            self._read |= self._contents([*self._files.values()] if self._are_few else [file])
        return decode_metrics(self._read[file.path])

    @cached_property
    def _files(self) -> Mapping[str, FileEntry]:
        return self._session.manifest(self.commit).by_path if self.commit else {}

    @cached_property
    def _are_few(self) -> bool:
        return sum(file.size for file in self._files.values()) <= _AT_ONCE_BYTES

    def _contents(self, files: Sequence[FileEntry]) -> dict[str, bytes]:
        """Read files, together."""
        with self._session.pool() as pool:
            ids = [segment.id for file in files for segment in file.segments]
            parts = ContentReader(self._session, pool).contents(ids)
            return {file.path: b"".join(next(parts).tobytes() for _ in file.segments) for file in files}


def _path(commit: ObjectId) -> str:
    return f"{commit[:2]}/{commit[2:]}.json"


def metrics_of(session: Session, commit: ObjectId) -> Metadata:
    """Return what a commit says of itself, and what is noted of it, which wins."""
    noted = Notes(session, session.refs.state()).of(commit)
    return {**session.record(commit).metadata, **noted}


def record_metrics(session: Session, found: Mapping[ObjectId, Metrics], actor: Actor) -> None:
    """Note metrics of commits, all or none; those of the same names are replaced, others stay.

    Raises
    ------
    ConflictError
        If other processes were faster every time.
    """
    for _ in range(_ATTEMPTS):
        notes = Notes(session, session.refs.state())
        before = {oid: notes.of(oid) for oid in found}
        after = {oid: {**before[oid], **metrics} for oid, metrics in found.items()}
        files = {_path(oid): encode_metrics(after[oid]) for oid in found if after[oid] != before[oid]}
        if not files:
            return
        sources = tuple(BytesSource(path, content) for path, content in sorted(files.items()))
        target = Target(METRICS, notes.commit, (notes.commit,) if notes.commit else ())
        request = CommitRequest("metrics of " + ", ".join(sorted(oid[:12] for oid in found)), allow_empty=True)
        try:
            commit(session, Selection(sources, tuple(sorted(files)), in_worktree=False), request, actor, target=target)
        except ConflictError:  # another process has noted something
            continue
        return
    raise ConflictError(f"{_ATTEMPTS} other processes were faster", hint="evaluate again")
