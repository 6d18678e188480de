"""Metrics of commits that were measured after these were made, kept as git keeps notes (spec-v1, section 4).

Each commit of notes takes over what is no longer than itself of those before it, as a binary counter carries: so a note
is written again as often as their number doubles, and all are read from as many files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from mvc.errors import ConflictError, MalformedError
from mvc.objects.commit import Metadata
from mvc.objects.manifest import FileEntry
from mvc.objects.refnames import NOTES
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, Target, commit
from mvc.repo.materialize import ContentReader
from mvc.repo.metrics import MOST_NOTES_BYTES, Metrics, decode_notes, encode_notes
from mvc.repo.refs import RefState
from mvc.repo.session import Session
from mvc.repo.sources import BytesSource
from mvc.repo.tree import Selection
from mvc.types import ObjectId, object_id

__all__ = ["METRICS", "Layer", "Notes", "metrics_of", "record_metrics"]

METRICS: Final = NOTES + "metrics"
"""The ref."""

_FILE: Final = "metrics.json"
"""In the commits that it leads to."""

_ATTEMPTS: Final = 100
"""Tries to move the ref; each failure means that another process has recorded metrics."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one commit of notes says.

    Parameters
    ----------
    commit : ObjectId
        The commit.
    metrics : mapping of ObjectId to Metrics
        By the commit that was measured.
    bytes : int
        Size of its file.
    """

    commit: ObjectId
    metrics: Mapping[ObjectId, Metrics]
    bytes: int


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

    def of(self, commit: ObjectId) -> Metrics:
        """Return what is noted of a commit; nothing if nothing is.

        Raises
        ------
        MalformedError
            If a file of notes is none.
        IntegrityError
            If one is missing or corrupt.
        """
        return next((layer.metrics[commit] for layer in self.layers if commit in layer.metrics), {})

    @cached_property
    def layers(self) -> Sequence[Layer]:
        """What is noted, the newest first: what a layer says of a commit is all that counts of it."""
        if self.commit is None:
            return ()
        with self._session.index.connected():
            return self._read(dict(self._files(self.commit)))

    def _read(self, files: Mapping[ObjectId, FileEntry | None]) -> Sequence[Layer]:
        """Read files together, each of one commit."""
        wanted = [segment.id for file in files.values() if file for segment in file.segments]
        with self._session.pool() as pool:
            parts = ContentReader(self._session, pool).contents(wanted)
            contents = {
                oid: b"".join(next(parts).tobytes() for _ in file.segments) for oid, file in files.items() if file
            }
        notes = {oid: decode_notes(content) for oid, content in contents.items()}
        return [Layer(oid, notes.get(oid, {}), len(contents.get(oid, b""))) for oid in files]

    def _files(self, newest: ObjectId) -> Iterator[tuple[ObjectId, FileEntry | None]]:
        """Yield the commits of notes, the newest first, with the file of each, if it has one."""
        oid: ObjectId | None = newest
        while oid is not None:
            file = self._session.manifest(oid).by_path.get(_FILE)
            if file is not None and file.size > MOST_NOTES_BYTES:
                raise MalformedError(
                    f"the note {_FILE} of {oid[:12]} has {file.size:,} bytes; {MOST_NOTES_BYTES:,} are allowed"
                )
            yield oid, file
            oid = next(iter(self._session.commit(oid).parents), None)


def metrics_of(session: Session, commit: ObjectId) -> Metadata:
    """Return what a commit says of itself, and what is noted of it, which wins."""
    noted = Notes(session, session.refs.state()).of(commit)
    return {**session.record(commit).metadata, **noted}


def record_metrics(session: Session, found: Mapping[ObjectId, Metrics], actor: Actor) -> None:
    """Note metrics of commits, all or none; those of the same names are replaced, others stay.

    Raises
    ------
    InvalidInputError
        If those of a commit are too long.
    ConflictError
        If other processes were faster every time.
    """
    for _ in range(_ATTEMPTS):
        notes = Notes(session, session.refs.state())
        before = {oid: notes.of(oid) for oid in found}
        after = {oid: {**before[oid], **metrics} for oid, metrics in found.items()}
        changed = {oid: metrics for oid, metrics in after.items() if metrics != before[oid]}
        if not changed:
            return
        content, parent = _layered(changed, notes)
        selection = Selection((BytesSource(_FILE, content),), ("",), in_worktree=False)
        target = Target(METRICS, notes.commit, (parent,) if parent else ())
        request = CommitRequest("metrics of " + ", ".join(sorted(oid[:12] for oid in found)), allow_empty=True)
        try:
            commit(session, selection, request, actor, target=target)
        except ConflictError:  # another process has noted something
            continue
        return
    raise ConflictError(f"{_ATTEMPTS} other processes were faster", hint="evaluate again")


def _layered(changed: Mapping[ObjectId, Metrics], notes: Notes) -> tuple[bytes, ObjectId | None]:
    """Return the file of a new layer, which takes over those below that are no longer, and the commit of the next."""
    content = encode_notes(changed)
    for layer in notes.layers:
        if layer.bytes > len(content):
            return content, layer.commit
        both = {**layer.metrics, **changed}
        longer = encode_notes(both)
        if len(longer) > MOST_NOTES_BYTES:
            return content, layer.commit
        changed, content = both, longer
    return content, None
