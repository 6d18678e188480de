"""What must hold of a repository at any time, given the model of what was done with it: one function for each promise.

All of them only read, with the exception of what any reader may do: bring the index up to date.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mvc.index import BlobRecord, Database, synchronise
from mvc.remotes.remote_store import RemoteStore
from mvc.repo.arborescence import Reading, readings
from mvc.repo.checkout import export_commit
from mvc.repo.fsck import fsck
from mvc.repo.layout import DIRECTORY
from mvc.repo.log import history
from mvc.repo.notes import Notes
from mvc.repo.session import Session
from mvc.repo.survey import way_of
from mvc.repo.tips import commits_of_refs
from mvc.store.layout import EntryKind, StoredObject
from mvc.testing.model import Files, Model
from mvc.types import ObjectId

__all__ = [
    "bounds_are_kept",
    "commits_come_back",
    "effort",
    "files_below",
    "fsck_finds_nothing",
    "index_is_as_rebuilt",
    "log_is_history",
    "notes_are_those_of_the_model",
    "nothing_is_condemned",
    "only_reachable_is_stored",
    "operations_are_those_of_the_model",
    "refs_are_those_of_the_model",
    "remote_is_whole",
    "remote_refs_are_those_of_the_model",
    "worktree_is_that_of_the_model",
]

_ALL: Final = 1 << 62
"""More commits than there are."""
_ENVELOPE: Final = 512
"""Bytes by which a full encoding may exceed its content: envelope and checksums of one frame."""


def files_below(root: Path) -> Files:
    """Return path to content of every file below a directory, those of a repository left out."""
    found: dict[str, bytes] = {}
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name != DIRECTORY]
        for name in names:
            path = Path(directory, name)
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def refs_are_those_of_the_model(session: Session, model: Model) -> None:
    """Every ref is where the model has it, and there is no other; so is every ref before every operation."""
    assert dict(session.refs.state().refs) == model.refs
    assert session.refs.newest()[0] == len(model.operations)


def operations_are_those_of_the_model(session: Session, model: Model) -> None:
    """Promise that the operation log holds every state that the refs ever had, newest first."""
    states = [dict(session.refs.state(oid).refs) for oid, _ in session.refs.walk()]
    assert states == [after for _, after in reversed(model.operations)] + states[-1:]


def remote_refs_are_those_of_the_model(store: RemoteStore, model: Model) -> None:
    """Every ref of the remote is where the model has it, and no operation was made there that did not move one."""
    state = store.state()
    assert dict(state.refs) == model.remote
    assert state.number == model.remote_operations


def remote_is_whole(session: Session, model: Model, compared: set[ObjectId], scratch: Path) -> None:
    """Everything that refs of the remote reach comes back from there byte for byte, and fsck there finds nothing.

    Parameters
    ----------
    session : Session
        The remote, opened as the bare repository that it is.
    model : Model
        What must be.
    compared : set of ObjectId
        Commits that were compared before; the others are added.
    scratch : Path
        For the files of commits.
    """
    reachable = model.ancestors(model.tips_of(model.remote).values())
    with session.index.connected():
        commits_come_back(session, model, sorted(reachable - compared), scratch)
    compared |= reachable
    fsck_finds_nothing(session)


def worktree_is_that_of_the_model(session: Session, model: Model) -> None:
    """Every file of the work tree is byte for byte what it should be, and there is no other."""
    assert files_below(session.layout.root) == model.worktree


def log_is_history(session: Session, model: Model) -> None:
    """Promise that the log has every commit that refs reach, once, as it was made, children before parents.

    The history of HEAD alone is the same of its ancestors.
    """
    tips = commits_of_refs(session, session.refs.state())
    assert tips == model.tips()
    records = list(history(session, tips.values()))
    places = {record.id: place for place, record in enumerate(records)}
    assert len(places) == len(records)
    assert places.keys() == model.reachable()
    for record in records:
        known = model.commits[record.id]
        assert (record.parents, record.message, dict(record.metadata)) == (known.parents, known.message, known.metadata)
        assert all(places[parent] > places[record.id] for parent in record.parents)
    if model.head:
        line = [record.id for record in history(session, [model.head])]
        assert line == sorted(model.ancestors([model.head]), key=places.__getitem__)


def notes_are_those_of_the_model(session: Session, model: Model, commits: Iterable[ObjectId]) -> None:
    """Promise that what was noted of each of `commits` is noted still, whatever became of it."""
    notes = Notes(session, session.refs.state())
    for oid in commits:
        assert notes.of(oid) == model.noted(oid), f"other metrics are noted of {oid}"


def commits_come_back(session: Session, model: Model, commits: Iterable[ObjectId], scratch: Path) -> None:
    """Every one of `commits`, written into an empty directory, is byte for byte what was committed."""
    for oid in commits:
        target = scratch / "exported"
        export_commit(session, oid, target)
        found = files_below(target)
        shutil.rmtree(target)
        assert found == model.commits[oid].files, f"commit {oid} is another"


def fsck_finds_nothing(session: Session, *, quick: bool = False) -> None:
    """Every stored byte is what checksums and ids say, everything that refs reach is there, and no file is aside."""
    report = fsck(session, quick=quick)
    assert report.clean, report.faults
    assert report.set_aside == 0


def index_is_as_rebuilt(session: Session) -> None:
    """Promise that an index that is brought up to date says the same as one that is made anew from the store."""
    session.refresh(force=True)
    derived = Database(None)
    synchronise(derived, session.store, session.refs.newest()[1])
    assert _indexed(session.index) == _indexed(derived)


def _indexed(database: Database) -> list[str]:
    return sorted(map(repr, [*database.all_blobs(), *database.commits_up_to(_ALL, _ALL)]))


def nothing_is_condemned(session: Session) -> None:
    """No file waits to be removed, and none was left half written."""
    assert [path.name for path in session.layout.directory.rglob("*.condemned")] == []


def only_reachable_is_stored(session: Session, model: Model) -> None:
    """No commit is stored that no ref reaches, and no content that no such commit needs which is not thinned."""
    session.store.packs.refresh()
    stored = list(session.store.locations())
    needed = chain(session, model)
    assert {item.oid for item in stored if not _is_metadata(item)} == needed.keys(), "contents"
    assert {item.oid for item in stored if item.kind is EntryKind.COMMIT} == model.kept(), "commits"


def _is_metadata(item: StoredObject) -> bool:
    return item.kind is not None and item.kind.is_metadata


def chain(session: Session, model: Model) -> dict[ObjectId, BlobRecord]:
    """Return how everything that refs reach is stored, bases included; nothing of it may be missing."""
    with session.index.connected():
        manifests = [session.manifest(commit) for commit in model.whole()]
        wanted = {segment.id for manifest in manifests for file in manifest.files for segment in file.segments}
        found = session.chains(wanted)
    assert wanted <= found.keys()
    return found


def effort(session: Session, model: Model) -> Mapping[ObjectId, Reading]:
    """Return what it takes to rebuild everything that refs reach."""
    return readings({oid: way_of(record) for oid, record in chain(session, model).items()})


def bounds_are_kept(session: Session, model: Model, before: Mapping[ObjectId, Reading]) -> None:
    """Nothing takes more decodings or reads more stored bytes than the settings allow, or than it took `before`.

    Of small contents an envelope may be larger than they are.
    """
    found, bounds = chain(session, model), session.settings.delta
    for oid, reading in readings({oid: way_of(record) for oid, record in found.items()}).items():
        was = before.get(oid, Reading(0, 0.0))
        most = max(bounds.read_factor * found[oid].raw_bytes, was.read_bytes, found[oid].raw_bytes + _ENVELOPE)
        assert reading.depth <= max(bounds.depth, was.depth), f"{oid} is {reading.depth} deltas deep"
        assert reading.read_bytes <= most, f"{oid} of {found[oid].raw_bytes} bytes reads {reading.read_bytes}"
