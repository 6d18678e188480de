"""``mvc fsck``: say what is wrong with a repository, and which commits and tensors suffer from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mvc.errors import MvcError
from mvc.repo.check_copies import Radius, State
from mvc.repo.check_history import Use, uses
from mvc.repo.diagnosis import Diagnosis, diagnose
from mvc.repo.features import is_partial, may_be_thinned
from mvc.repo.progress import Progress, silent
from mvc.repo.recheck import Recheck, keep, recheck, take_snapshot
from mvc.repo.session import Session
from mvc.store.layout import Location
from mvc.store.object_store import ObjectStore
from mvc.store.packs import index_path, pack_path
from mvc.store.quarantine import Quarantine
from mvc.types import ObjectId

__all__ = ["Fault", "FaultKind", "FsckReport", "TensorUse", "fsck", "report"]

FaultKind = Literal["corrupt", "missing", "derived", "record"]
"""``corrupt``: stored bytes are wrong. ``missing``: something needed is not stored. ``derived``: wrong, but can be made
again from what is stored: no content is lost. ``record``: all contents are what their ids promise, but what a commit
says of the loss of one does not hold."""

_UNREACHED: Final = "; no ref reaches it"


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor of a commit that cannot be read.

    Parameters
    ----------
    commit : ObjectId
        The commit.
    path : str
        The file.
    name : str
        The tensor.
    """

    commit: ObjectId
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. What suffers from it is listed with it, and is no fault of its own.

    Parameters
    ----------
    object : str
        Id or file.
    problem : str
        What is wrong with it.
    affected : tuple of str
        ``COMMIT:PATH`` of every file that cannot be read because of it; refs and commits that name a commit, tag or
        manifest. Empty if another copy serves.
    kind : FaultKind
        What sort of fault it is.
    place : str or None
        The file, below ``.mvc``.
    reachable : bool
        Whether a ref reaches the object.
    tensors : tuple of TensorUse
        Every tensor that cannot be read because of it, or of which something is said that does not hold.
    """

    object: str
    problem: str
    affected: tuple[str, ...] = ()
    kind: FaultKind = "corrupt"
    place: str | None = None
    reachable: bool = True
    tensors: tuple[TensorUse, ...] = ()


@dataclass(frozen=True, slots=True)
class FsckReport:
    """The outcome.

    Parameters
    ----------
    operations, commits, contents : int
        Operations that the head leads to, commits and contents that refs reach: those that were checked.
    copies : int
        Stored copies and encodings of objects that were checked, whether refs reach them or not.
    checked_bytes : int
        Decoded bytes that were compared with their ids; 0 for a quick check.
    faults : tuple of Fault
        Empty if all is well.
    set_aside : int
        Files in ``.mvc/corrupt``, which earlier repairs set aside.
    known_commits : int
        Commits that an earlier check found good with all that they need, and that a quick check did not read again;
        there are none if anything is wrong.
    promised : int
        Contents that refs reach besides, which are absent by design, and which a remote promises.
    losses : int
        Tensors that were compared with those that they stand for; 0 for a quick check.
    """

    operations: int
    commits: int
    contents: int
    copies: int
    checked_bytes: int
    faults: tuple[Fault, ...]
    set_aside: int
    known_commits: int = 0
    promised: int = 0
    losses: int = 0

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.faults


def fsck(session: Session, *, quick: bool = False, progress: Progress = silent) -> FsckReport:
    """Check a repository; see `mvc.repo.diagnosis.diagnose` for what is checked, and the parameters.

    Reads only, but for giving condemned files their names back if something is missing. What was found clean is noted
    in the index. A quick check then reads what is new since, and believes that a file with the size and times that it
    had is as it was; any other check believes nothing. Whatever is wrong, everything is checked again each time.
    """
    noted = not _may_lack(session)  # what is absent by design can change without anything else that is noted
    if quick and noted and (known := recheck(session, progress)):
        return _nothing_wrong(session, known)
    snapshot = take_snapshot(session)
    found = diagnose(session, quick=quick, progress=progress)
    result = report(session, found)
    if result.clean and noted:
        keep(session, snapshot, found)
    return result


def _may_lack(session: Session) -> bool:
    """Return whether something may be absent by design."""
    try:
        return bool(session.absent) or is_partial(session.layout) or may_be_thinned(session.layout)
    except MvcError:
        return True


def _nothing_wrong(session: Session, known: Recheck) -> FsckReport:
    sizes = known.operations, known.commits, known.contents, known.copies
    return FsckReport(*sizes, 0, (), _set_aside(session), known.known)


def _set_aside(session: Session) -> int:
    return len(Quarantine(session.layout.directory, session.fs).names())


def report(session: Session, found: Diagnosis) -> FsckReport:
    """Return what there is to say of a diagnosis of a repository."""
    return FsckReport(
        len(found.log.line),
        len(found.history.commits),
        len(found.history.contents),
        sum(len(copies) for copies in found.copies.by_id.values()),
        found.copies.checked_bytes,
        tuple(_Faults(session.store, found).all()),
        _set_aside(session),
        promised=found.promised,
        losses=found.losses.measured,
    )


class _Faults:
    """Turns a diagnosis into faults: one for each cause."""

    def __init__(self, store: ObjectStore, found: Diagnosis) -> None:
        self._store = store
        self._found = found
        self._reachable = found.reachable()
        wrong = {copy.oid for copy in found.copies.all() if copy.state is State.CORRUPT} | found.missing.keys()
        wrong |= _contradicting(found)
        radius = Radius(found.copies)
        self._radius = {oid: radius.of(oid) for oid in wrong if oid not in found.copies.good}
        self._radius |= {oid: frozenset([oid]) for oid in _contradicting(found)}
        lost = frozenset().union(*self._radius.values())
        filled = {oid: commit for oid, commit in found.history.commits.items() if oid not in found.history.thinned}
        self._uses: Mapping[ObjectId, Sequence[Use]] = uses(store, found.copies, filled, lost)

    def all(self) -> Iterator[Fault]:
        """Yield every fault, what everything else depends on first."""
        yield from (Fault(name, problem, place=name) for name, problem in self._found.settings.items())
        yield from self._log()
        yield from self._packs()
        yield from self._copies()
        yield from self._missing()
        yield from self._circles()
        yield from self._losses()
        if self._found.index is not None:
            yield Fault("index.sqlite", self._found.index, kind="derived", place="index.sqlite")

    def _log(self) -> Iterator[Fault]:
        log = self._found.log
        newest = max(log.heads, default=None)
        if newest is None:
            known = bool(log.operations or log.corrupt)
            problem = "the pointer to the newest operation is lost" if known else "there is no operation"
            yield Fault("operation log", problem, kind="missing", place="op_head")
        for number, problem in log.wrong_heads.items():
            place = self._place(self._store.head.path(number))
            yield Fault(place, problem, place=place, reachable=number == newest)
        if log.broken is not None:
            problem = log.corrupt.get(log.broken, "it is not stored")
            said = f"the log ends at operation {log.broken}: {problem}"
            kind: FaultKind = "corrupt" if log.broken in log.corrupt else "missing"
            place = self._place(self._store.operations.path(log.broken))
            yield Fault("operation log", said, (f"operation {log.broken}",), kind, place)
        elif newest is not None and log.heads[newest] is not None and log.refs is None:
            yield Fault("operation log", "no operation holds a view of the refs")
        for oid, problem in log.corrupt.items():
            if oid != log.broken:
                place = self._place(self._store.operations.path(oid))
                yield Fault(oid, problem + _UNREACHED, place=place, reachable=False)
        for oid, problem in log.contradictions.items():
            yield Fault(oid, problem, place=self._place(self._store.operations.path(oid)))

    def _packs(self) -> Iterator[Fault]:
        for pack in self._found.packs:
            place = self._place(pack_path(self._store.packs.directory, pack.pack))
            if pack.problem is not None:
                yield Fault(f"pack {pack.pack}", pack.problem, place=place)
            if pack.index_problem is not None:
                place = self._place(index_path(self._store.packs.directory, pack.pack))
                yield Fault(f"index of pack {pack.pack}", pack.index_problem, kind="derived", place=place)

    def _copies(self) -> Iterator[Fault]:
        for copy in self._found.copies.all():
            if copy.state is State.CORRUPT:
                yield self._fault(copy.oid, copy.problem or "", "corrupt", self._place_of(copy.oid, copy.location))

    def _missing(self) -> Iterator[Fault]:
        for oid in sorted(self._found.missing.keys() & self._reachable):
            yield self._fault(oid, "it is missing from the store", "missing", None)
        for oid in self._found.history.unreadable:
            copies = self._found.copies.by_id.get(oid, ())
            if not copies:
                yield self._fault(oid, "it is missing from the store", "missing", None)
            elif oid in self._found.copies.good:
                yield self._fault(
                    oid,
                    "the stored bytes are neither a commit, a tag nor a manifest as it is needed here",
                    "corrupt",
                    None,
                )
        for oid in sorted(self._found.history.strange):
            yield Fault(oid, "the commit says of tensors with a loss what is not among its tensors", (f"commit {oid}",))
        for oid, name in self._found.history.exposed.items():
            yield Fault(oid, "the commit is thinned, which none may be that a branch or tag names", (name,))

    def _circles(self) -> Iterator[Fault]:
        """Yield contents that are neither corrupt nor hang on what is, but cannot be decoded; and wrong sizes."""
        explained = frozenset().union(*self._radius.values())
        for oid, copies in self._found.copies.by_id.items():
            if oid not in self._found.copies.good and oid not in explained and oid in self._reachable:
                place = self._place_of(oid, copies[0].location)
                yield self._fault(oid, "it is needed to decode itself", "corrupt", place)
        for oid in _contradicting(self._found):
            copy = self._found.copies.good[oid]
            problem = f"the blob is a {copy.content} of {copy.raw_bytes} bytes, which a manifest contradicts"
            yield self._fault(oid, problem, "corrupt", self._place_of(oid, copy.location))

    def _losses(self) -> Iterator[Fault]:
        """Yield what commits say of their losses and what does not hold, tensor by tensor."""
        for wrong in self._found.losses.wrong:
            made, commits = wrong.tensor, self._found.history.commits
            found = uses(self._store, self._found.copies, {wrong.commit: commits[wrong.commit]}, {made.id})
            places = [(use.path, name) for use in found.get(made.id, ()) for name in use.tensors]
            tensors = tuple(TensorUse(wrong.commit, path, name) for path, name in places)
            names = ", ".join(f"{path}:{name}" for path, name in places) or made.id
            problem = f"what it says of the loss of {names}, which stands for {made.source[:12]}, does not hold"
            yield Fault(wrong.commit, f"{problem}: {wrong.problem}", kind="record", tensors=tensors)

    def _fault(self, oid: ObjectId, problem: str, kind: FaultKind, place: str | None) -> Fault:
        reachable = oid in self._reachable
        named = self._found.history.unreadable.get(oid, ())
        found = [use for hit in sorted(self._radius.get(oid, ())) for use in self._uses.get(hit, ())]
        affected = dict.fromkeys(f"{use.commit}:{use.path}" for use in found)
        tensors = dict.fromkeys(TensorUse(use.commit, use.path, name) for use in found for name in use.tensors)
        note = "" if reachable else _UNREACHED
        note += "; another copy serves" if oid in self._found.copies.good and kind == "corrupt" and not affected else ""
        return Fault(oid, problem + note, (*named, *affected), kind, place, reachable, tuple(tensors))

    def _place_of(self, oid: ObjectId, location: Location) -> str:
        if location.pack is None:
            return self._place(self._store.loose.path(oid))
        return self._place(pack_path(self._store.packs.directory, location.pack))

    def _place(self, path: object) -> str:
        return str(path).removeprefix(str(self._store.root)).lstrip("/")


def _contradicting(found: Diagnosis) -> frozenset[ObjectId]:
    """Return contents that are what their ids promise, and not what some manifest says of them."""
    good, disputed = found.copies.good, found.history.disputed
    return frozenset(
        oid
        for (kind, oid), length in found.history.contents.items()
        if oid in good and (oid in disputed or (good[oid].content, good[oid].raw_bytes) != (kind, length))
    )
