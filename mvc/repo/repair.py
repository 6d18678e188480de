"""``mvc fsck --repair``: store again what was lost, then set aside what was damaged (spec-v1, section 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mvc.errors import FormatError, InvalidInputError, MvcError
from mvc.index import Database
from mvc.repo.check_copies import Copy
from mvc.repo.diagnosis import Diagnosis, diagnose
from mvc.repo.encode import Encoder
from mvc.repo.fsck import FsckReport, report
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress, silent
from mvc.repo.repair_plan import RepairPlan, Restore, SetAside, plan_repair, unexplained, wanted
from mvc.repo.repair_sources import Donor, Supply, open_donors, search
from mvc.repo.session import Session
from mvc.settings import Settings
from mvc.store.batch import WriteBatch
from mvc.store.layout import EntryKind
from mvc.store.metadata import wrap_metadata
from mvc.store.packs import index_path, pack_path
from mvc.store.quarantine import Quarantine
from mvc.types import ObjectId

__all__ = ["RepairResult", "repair"]


@dataclass(frozen=True, slots=True)
class RepairResult:
    """The outcome.

    Parameters
    ----------
    report : FsckReport
        What is wrong afterwards; for a dry run, what is wrong now.
    plans : tuple of RepairPlan
        What was done, one step after the other; for a dry run, what would be done first.
    set_aside : tuple of str
        Names of the files in ``.mvc/corrupt`` that were put there.
    """

    report: FsckReport
    plans: tuple[RepairPlan, ...]
    set_aside: tuple[str, ...]

    @property
    def restored(self) -> tuple[Restore, ...]:
        """What was stored again."""
        return tuple(item for plan in self.plans for item in plan.restore)


def repair(
    session: Session, sources: Sequence[Path] = (), *, dry_run: bool = False, progress: Progress = silent
) -> RepairResult:
    """Repair what can be repaired from other copies, the work tree and other repositories.

    Works in rounds of diagnosis, plan and act, until nothing is left to do: what is restored may show what else is
    missing, and a damaged file is moved only when a diagnosis has read good copies of all that it held. A repository
    without faults is not changed. May be killed anywhere, and run again.

    Parameters
    ----------
    session : Session
        The repository.
    sources : sequence of Path
        Directories of other repositories, asked in this order.
    dry_run : bool
        Change nothing; return the first plan.
    progress : callable
        Told how far each diagnosis is.

    Raises
    ------
    NotFoundError, InvalidInputError, FormatError
        If a source is none, or either repository is of an unknown format.
    ConflictError
        If another process collects garbage, repacks or repairs; or if a source changes while it is read: what has been
        done stays, and nothing is lost.
    """
    if dry_run:
        return _repaired(session, sources, dry_run=True, progress=progress)
    session.check_writable()
    with session.store.leases.take_maintenance(
        "fsck --repair"
    ):  # what is taken for a second copy must not go meanwhile
        return _repaired(session, sources, dry_run=False, progress=progress)


def _repaired(session: Session, sources: Sequence[Path], *, dry_run: bool, progress: Progress) -> RepairResult:
    """Work in rounds until nothing is left to do."""
    before = set(Quarantine(session.layout.directory, session.fs).names())
    plans: list[RepairPlan] = []
    while True:
        session = _fresh(session)
        found = diagnose(session, progress=progress)
        with session.pool() as pool:
            supply = _gather(session, found, open_donors(session, sources, pool), pool)
            plan = plan_repair(found, supply.origins, supply.operations)
            if not plan or plan in plans:
                break
            plans.append(plan)
            if dry_run:
                break
            _Repair(session, plan, supply).run(pool)
    if not dry_run and plans and found.log.line:
        _ = _fresh(session).index  # brought up to date
    after = Quarantine(session.layout.directory, session.fs).names()
    return RepairResult(report(session, found), tuple(plans), tuple(name for name in after if name not in before))


def _fresh(session: Session) -> Session:
    """Open the repository once more, as it is now, with settings that can be read."""
    try:
        settings = session.layout.settings()
    except (FormatError, InvalidInputError):
        settings = Settings()
    return Session(session.layout, session.fs, settings)


def _gather(session: Session, found: Diagnosis, donors: Sequence[Donor], pool: Executor) -> Supply:
    """Look for what is lost; for contents that are deltas of it, only if it is not found."""
    wants = wanted(found)
    roots = wants.contents - (unexplained(found, {}) - _causes(found))
    supply = search(session, replace(wants, contents=roots), donors, pool)
    rest = wants.contents & unexplained(found, supply.origins) - supply.origins.keys()
    if rest - roots:
        more = search(session, replace(wants, contents=rest - roots), donors, pool)
        supply.contents |= more.contents
        supply.origins |= more.origins
    return supply


def _causes(found: Diagnosis) -> frozenset[ObjectId]:
    """Return lost contents that do not only hang on others."""
    lost = (copy for copy in found.copies.all() if copy.problem is not None)
    return frozenset(copy.oid for copy in lost) | found.missing.keys()


class _Repair:
    """Carries out one plan: new copies first, durable, then the log, then what they replace is moved away."""

    def __init__(self, session: Session, plan: RepairPlan, supply: Supply) -> None:
        self._session = session
        self._store = session.store
        self._plan = plan
        self._supply = supply
        self._quarantine = Quarantine(session.layout.directory, session.fs)

    def run(self, pool: Executor) -> None:
        """Do it."""
        self._store.initialize()  # a directory may be among what was lost
        self._forget_index()
        for path in self._overwritten():
            if self._session.fs.size(path) is not None:
                self._quarantine.keep(path)
        if self._plan.carry or self._restored("content") or self._restored("metadata"):
            with self._store.begin() as batch:
                self._fill(batch, pool)
                batch.commit()
        for oid in self._restored("operation"):
            self._store.operations.write(self._supply.operations[oid].encoded)
        for head in self._plan.heads:
            self._store.head.restore(head.number, head.oid)
        for pack in self._plan.indexes:
            self._store.packs.rebuild_index(pack)
        for item in self._plan.set_aside:
            self._set_aside(item)

    def _forget_index(self) -> None:
        """Empty the index: it is made again from what is there, whatever comes in between."""
        if self._session.layout.index.exists():
            Database(self._session.layout.index).clear()

    def _restored(self, sort: str) -> list[ObjectId]:
        return [item.oid for item in self._plan.restore if item.sort == sort]

    def _overwritten(self) -> Iterator[Path]:
        """Yield damaged files whose names the new ones may take."""
        yield from (self._store.loose.path(oid) for oid in self._restored("content"))
        yield from (self._store.operations.path(oid) for oid in self._restored("operation"))
        yield from (self._store.head.path(head.number) for head in self._plan.heads)
        for pack in {copy.location.pack for copy in self._plan.carry}:
            assert pack is not None, "what is carried lies in packs"
            yield pack_path(self._store.packs.directory, pack)

    def _fill(self, batch: WriteBatch, pool: Executor) -> None:
        for oid in self._restored("metadata"):
            kind, data = self._supply.metadata[oid]
            batch.put(kind, oid, wrap_metadata(data))
        for copy in self._plan.carry:
            self._carry(copy, batch)
        session = self._session
        reader = ContentReader(session, pool)
        encoder = Encoder(reader, pool, 2 * session.threads, "default", session.settings.delta)
        contents = (replace(self._supply.contents[oid], damaged=True) for oid in self._restored("content"))
        for _ in encoder.store(((content, ()) for content in contents), batch):
            pass

    def _carry(self, copy: Copy, batch: WriteBatch) -> None:
        kind = copy.kind
        if kind is None:  # never: loose blobs are not carried
            kind = EntryKind.TENSOR if copy.content == "tensor" else EntryKind.LITERAL
        batch.put(kind, copy.oid, self._store.read(copy.oid, copy.location))

    def _set_aside(self, item: SetAside) -> None:
        path = self._path(item)
        self._quarantine.keep(path)
        if item.sort == "pack":
            with suppress(MvcError):  # it is derived from the pack; one without a pack means nothing
                self._session.fs.unlink(index_path(self._store.packs.directory, item.oid))
        self._quarantine.remove(path)
        self._session.fs.fsync_dir(path.parent)

    def _path(self, item: SetAside) -> Path:
        if item.sort == "pack":
            return pack_path(self._store.packs.directory, item.oid)
        return self._store.loose.path(item.oid) if item.sort == "blob" else self._store.operations.path(item.oid)
