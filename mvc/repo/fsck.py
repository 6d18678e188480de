"""``mvc fsck``: check that everything that refs reach is stored, and is what its ids promise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from mvc.errors import FormatError, IntegrityError, MvcError, NotFoundError, StorageError
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import COMMIT, MANIFEST, TAG, digest
from mvc.objects.manifest import Manifest, SegmentKind
from mvc.objects.refnames import HEAD
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.session import Session
from mvc.store.layout import Location
from mvc.types import ObjectId, object_id

__all__ = ["Fault", "FsckReport", "fsck"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    Parameters
    ----------
    object : str
        Id or file.
    problem : str
        What is wrong with it.
    affected : tuple of str
        ``commit:path`` of every file that needs it, as far as known.
    """

    object: str
    problem: str
    affected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FsckReport:
    """The outcome.

    Parameters
    ----------
    operations, commits, contents : int
        What was checked.
    checked_bytes : int
        Decoded bytes that were compared with their ids; 0 for a quick check.
    faults : tuple of Fault
        Empty if all is well.
    """

    operations: int
    commits: int
    contents: int
    checked_bytes: int
    faults: tuple[Fault, ...]

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.faults


def fsck(session: Session, *, quick: bool = False, progress: Progress = silent) -> FsckReport:
    """Check a repository. Reads only; trusts neither the index nor any checksum that it can compute itself.

    Checked are: every byte of every pack; every operation back to the first; every commit, tag and manifest that a ref
    reaches; every content that these name. The latter by decoding it and computing its id; `quick` reads headers only.

    Parameters
    ----------
    session : Session
        The repository.
    quick : bool
        Do not decode contents.
    progress : callable
        Told how far the work is.
    """
    check = _Check(session)
    for pack in session.store.pack_ids():
        check.attempt(f"pack {pack}", partial(session.store.packs.verify, pack))
    operations = check.operations()
    commits = check.history()
    contents = check.contents(commits)
    with session.pool() as pool, progress("checking", 0 if quick else sum(contents.values())) as tick:
        checked = check.blobs(contents, pool, tick, quick=quick)
    return FsckReport(operations, len(commits), len(contents), checked, tuple(check.faults))


_Contents = dict[tuple[SegmentKind, ObjectId], int]


@dataclass
class _Check:
    """A check under way: what is wrong so far, and who needs what."""

    session: Session
    faults: list[Fault] = field(default_factory=list)
    needed_by: dict[ObjectId, list[str]] = field(default_factory=dict)

    def attempt(self, noun: str, action: Callable[[], object], affected: Iterable[str] = ()) -> bool:
        """Run `action`; if it finds something wrong, take note and return False."""
        try:
            action()
        except (IntegrityError, NotFoundError, FormatError, StorageError) as error:
            self.faults.append(Fault(noun, error.message, tuple(affected)))
            return False
        return True

    def operations(self) -> int:
        """Read every operation from the newest to the first; return how many there are."""
        count = 0

        def walk() -> None:
            """Read every operation, and count them as far as they can be read."""
            nonlocal count
            for _ in self.session.refs.walk():
                count += 1

        self.attempt("operation log", walk)
        return count

    def history(self) -> dict[ObjectId, Commit]:
        """Read every commit that a ref reaches."""
        found: dict[ObjectId, Commit] = {}
        pending = [(name, object_id(value)) for name, value in self._refs().items()]
        while pending:
            origin, oid = pending.pop()
            if oid in found:
                continue
            commit = self._commit(origin, oid)
            if isinstance(commit, Commit):
                found[oid] = commit
                pending += [(f"commit {oid}", parent) for parent in commit.parents]
            elif commit is not None:
                pending.append((f"tag {oid}", commit.target))
        return found

    def _refs(self) -> Mapping[str, str]:
        try:
            state = self.session.refs.state()
        except MvcError:
            return {}
        refs = {name: value for name, value in state.refs.items() if name != HEAD}
        return refs | ({HEAD: state.head} if state.head else {})

    def _commit(self, origin: str, oid: ObjectId) -> Commit | Tag | None:
        """Return the commit or tag object `oid`, or None, with a note, if it is neither."""
        try:
            data = self.session.store.load_metadata(oid)
            if digest(COMMIT, data) == oid:
                return Commit.decode(data)
            if digest(TAG, data) == oid:
                return Tag.decode(data)
        except (IntegrityError, NotFoundError, FormatError, StorageError) as error:
            self.faults.append(Fault(oid, error.message, (origin,)))
            return None
        self.faults.append(Fault(oid, "the stored bytes are neither the commit nor the tag of this id", (origin,)))
        return None

    def contents(self, commits: Mapping[ObjectId, Commit]) -> _Contents:
        """Read every manifest; return the contents that they name, with their sizes."""
        result: _Contents = {}
        seen: dict[ObjectId, Manifest | None] = {}
        for oid, commit in commits.items():
            if commit.manifest not in seen:
                seen[commit.manifest] = self._manifest(oid, commit.manifest)
            manifest = seen[commit.manifest]
            for file in manifest.files if manifest else ():
                for segment in file.segments:
                    result[segment.kind, segment.id] = segment.length
                    self.needed_by.setdefault(segment.id, []).append(f"{oid}:{file.path}")
        return result

    def _manifest(self, commit: ObjectId, oid: ObjectId) -> Manifest | None:
        try:
            data = self.session.store.load_metadata(oid)
            if digest(MANIFEST, data) == oid:
                return Manifest.decode(data)
        except (IntegrityError, NotFoundError, FormatError, StorageError) as error:
            self.faults.append(Fault(oid, error.message, (f"commit {commit}",)))
            return None
        self.faults.append(Fault(oid, "the stored bytes are not the manifest of this id", (f"commit {commit}",)))
        return None

    def blobs(self, contents: _Contents, pool: Executor, tick: Tick, *, quick: bool) -> int:
        """Open every blob and, unless `quick`, decode it; return the bytes decoded."""
        reader = ContentReader(self.session, pool, self._locate)
        checked = 0
        for (kind, oid), length in contents.items():

            def verify(kind: SegmentKind = kind, oid: ObjectId = oid, length: int = length) -> None:
                """Compare a blob with what the commits say of it, and decode it unless the check is quick."""
                envelope = reader.open(oid).envelope
                if (envelope.kind, envelope.spec.nbytes) != (kind, length):
                    raise IntegrityError(f"the blob is a {envelope.kind} of {envelope.spec.nbytes} bytes")
                if not quick:
                    for decoded in reader.stream([oid]):
                        tick(decoded.size)

            if self.attempt(oid, verify, self.needed_by[oid]) and not quick:
                checked += length
        return checked

    def _locate(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        found = ((oid, self.session.store.find(oid)) for oid in ids)
        return {oid: location for oid, location in found if location}
