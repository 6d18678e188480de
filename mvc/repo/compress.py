"""``mvc compress``: a commit whose tensors stand for those of another one, with a loss that it records."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from mvc.codecs import Bytes
from mvc.errors import ConflictError, InvalidInputError, ReadOnlyError, StorageError
from mvc.index import Additions
from mvc.objects.blob import MAX_DEPTH
from mvc.objects.commit import Commit
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.fields import Scalar
from mvc.objects.ids import content_hasher, finish
from mvc.objects.manifest import Manifest, SegmentKind, TensorEntry
from mvc.repo.branches import check_new_branch, create_branch
from mvc.repo.candidates import Task
from mvc.repo.clock import Actor, now
from mvc.repo.encode import Encoder
from mvc.repo.materialize import ContentReader
from mvc.repo.plan import SMALL_BYTES, Side
from mvc.repo.presence import check_present
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.record import additions, put_commit
from mvc.repo.reliance import rely_on
from mvc.repo.scan import Content
from mvc.repo.session import Session
from mvc.repo.stored_source import StoredSource
from mvc.repo.transforms import SourceTensor, Transform
from mvc.settings import Delta, Level
from mvc.store.batch import WriteBatch
from mvc.types import ObjectId, TensorSpec

__all__ = ["CompressRequest", "CompressResult", "compress"]

_BOUNDS: Final = Delta(depth=MAX_DEPTH - 1, read_factor=float("inf"))
"""Of the delta policy: what was made to be near to its base is stored as a delta of it, however deep that is."""


@dataclass(frozen=True, slots=True)
class CompressRequest:
    """How to compress.

    Parameters
    ----------
    source : ObjectId
        The commit.
    transform : Transform
        Method and settings.
    base : ObjectId or None
        The commit that the new tensors are stored against, which becomes the parent of the new one.
    branch : str or None
        Short name of a new branch for it.
    message : str or None
        By default what was done.
    tensors : tuple of str
        Patterns, as ``fnmatch`` takes them, of the names to change; all if there are none.
    exact : tuple of str
        Patterns of names to leave as they are, whatever `tensors` says.
    level : Level
        How hard to try to be small.
    gate : str or None
        The condition on metrics that the caller holds the commit to, for the record.
    """

    source: ObjectId
    transform: Transform
    base: ObjectId | None = None
    branch: str | None = None
    message: str | None = None
    tensors: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    level: Level = "default"
    gate: str | None = None

    @property
    def parameters(self) -> dict[str, Scalar]:
        """What a commit records of the settings, after it was made."""
        asked = {"tensors": " ".join(self.tensors), "exact": " ".join(self.exact), "gate": self.gate}
        return {**self.transform.parameters, **{name: value for name, value in asked.items() if value}}


@dataclass(frozen=True, slots=True)
class CompressResult:
    """What came of it.

    Parameters
    ----------
    commit : Commit
        The new commit.
    manifest : Manifest
        Its content.
    stored_bytes : int
        By which the store grew.
    tensor_bytes : int
        What those tensors of the new commit take that are not the base's, each counted once.
    """

    commit: Commit
    manifest: Manifest
    stored_bytes: int
    tensor_bytes: int

    @property
    def derivation(self) -> Derivation:
        """What the commit records of its tensors."""
        assert self.commit.derivation is not None, "it was compressed"
        return self.commit.derivation


def compress(session: Session, request: CompressRequest, actor: Actor, progress: Progress = silent) -> CompressResult:
    """Make a commit of tensors that stand for those of another one.

    Files stay as they are but for the elements of tensors. The new commit has no parent but the base: the source may
    go, and a push of the new commit does not bring it along.

    Parameters
    ----------
    session : Session
        The repository.
    request : CompressRequest
        What to do.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    InvalidInputError
        If the source has a loss already, the base shares nothing with it, or the method cannot be applied.
    AlreadyExistsError
        If there is such a branch.
    """
    session.check_writable()
    _check_lossless(session, request.source)
    state = session.refs.state()
    if request.branch is not None:
        check_new_branch(state, request.branch)
    pins = [request.source, *([request.base] if request.base else [])]
    with session.index.connected(), session.store.leases.take("compress", pins) as lease, session.pool() as pool:
        check_present(session, state, pins)
        result, added = _Compression(session, request, pool).run(actor, progress)
        if not lease.renew():
            raise ConflictError(
                "this process was taken for dead, and what it stored may be gone", hint="compress again"
            )
        with suppress(StorageError, ReadOnlyError):  # derived: the next command will see to it
            session.follow_objects(added)
        if request.branch is not None:
            create_branch(session, request.branch, result.commit.id, actor)
    return result


def _check_lossless(session: Session, oid: ObjectId) -> None:
    """Refuse to round what was rounded before: two losses add up, and nobody would know to what."""
    record = session.record(oid)
    if record.method is not None:
        origin = f"commit {record.source[:12]}" if record.source else "what it was made from"
        raise InvalidInputError(
            f"commit {oid[:12]} has lost something already, by {record.method}", hint=f"compress {origin} instead"
        )


class _Compression:
    """One compression under way."""

    def __init__(self, session: Session, request: CompressRequest, pool: Executor) -> None:
        self._session = session
        self._request = request
        self._manifest = session.manifest(request.source)
        self._names = {entry.id: self._manifest.names[entry.id] for entry in _stored(self._manifest)}
        base = session.manifest(request.base) if request.base else None
        self._bases = _bases(self._manifest, base) if base else {}
        self._shared = {entry.id for entry in base.tensors} if base else set()
        if request.base and not self._bases:
            raise InvalidInputError(
                f"no tensor of base {request.base[:12]} is of name, type and shape of one in {request.source[:12]}",
                hint="the base is the commit that the model was tuned from",
            )
        self._reader = ContentReader(session, pool)
        self._encoder = Encoder(self._reader, pool, 2 * session.threads, request.level, _BOUNDS)
        self._derived: dict[ObjectId, DerivedTensor] = {}

    def run(self, actor: Actor, progress: Progress) -> tuple[CompressResult, Additions]:
        """Store the new tensors, then the commit; return what to tell the index."""
        wanted = self._wanted()
        self._session.supply(self._read_contents(wanted))
        request = self._request
        request.transform.prepare(lambda: self._sources(wanted, lambda _: None), self._rest)
        with self._session.store.begin() as batch, progress("compressing", self._bytes(wanted)) as tick:
            stored = list(self._encoder.store(self._tasks(wanted, batch, tick), batch))
            if not self._derived:
                raise InvalidInputError(
                    f"{request.transform.method} leaves every tensor of commit {request.source[:12]} as it is",
                    hint=f"mvc show {request.source[:12]} --encodings lists them",
                )
            manifest = self._replaced()
            self._protect(manifest, {item.content.id for item in stored}, batch)
            sizes = self._stored_sizes(manifest) | {item.content.id: item.stored_bytes for item in stored}
            commit = self._commit(manifest, sizes, actor)
            put_commit(batch, commit, manifest)
            places = batch.commit()
            records = [item.record(places[item.content.id]) for item in stored]
        total = sum(sizes.get(oid, 0) for oid in self._own(manifest))
        result = CompressResult(commit, manifest, batch.stored_bytes, total)
        return result, additions(commit, manifest, places, records)

    def _own(self, manifest: Manifest) -> set[ObjectId]:
        """Return the tensors that are not the base's."""
        return {entry.id for entry in manifest.tensors} - self._shared

    def _rest(self, changed: Collection[ObjectId]) -> int:
        """Return the stored bytes of what stays of the source, but for what is the base's."""
        sizes = self._stored_sizes(self._manifest)
        return sum(sizes.get(oid, 0) for oid in self._own(self._manifest) - {*changed})

    def _wanted(self) -> list[ObjectId]:
        """Return the tensors to change, in the order of the files."""
        patterns, exact = self._request.tensors or ("*",), self._request.exact
        found = [oid for oid, names in self._names.items() if _fits(names, patterns) and not _fits(names, exact)]
        if not found:
            like = f" with a name like {', '.join(patterns)}" if self._request.tensors else ""
            like += f" other than {', '.join(exact)}" if exact else ""
            raise InvalidInputError(
                f"commit {self._request.source[:12]} has no tensor{like} that holds anything",
                hint=f"mvc show {self._request.source[:12]} --encodings lists them",
            )
        return found

    def _read_contents(self, ids: Collection[ObjectId]) -> dict[tuple[SegmentKind, ObjectId], int]:
        """Return what must be stored here: all of the source, of which the new commit shares the rest, and bases."""
        wanted = {*ids}
        bases = {entry.id: entry.spec.nbytes for oid, entry in self._bases.items() if oid in wanted}
        return {**self._manifest.segments(), **{("tensor", oid): size for oid, size in bases.items()}}

    def _bytes(self, ids: Collection[ObjectId]) -> int:
        wanted = {*ids}
        return sum(size for (_, oid), size in self._manifest.segments().items() if oid in wanted)

    def _sources(self, ids: Sequence[ObjectId], tick: Tick) -> Iterator[SourceTensor]:
        """Read tensors and their bases, one after the other."""
        self._reader.prepare([*ids, *(entry.id for oid, entry in self._bases.items() if oid in set(ids))])
        for oid in ids:
            spec = self._reader.open(oid).envelope.spec
            base = self._bases.get(oid)
            words = self._reader.read(oid)
            near = self._reader.read(base.id) if base is not None and base.spec == spec else None
            yield SourceTensor(oid, self._names[oid], spec, words, near)
            tick(spec.nbytes)

    def _tasks(self, ids: Sequence[ObjectId], batch: WriteBatch, tick: Tick) -> Iterator[Task]:
        """Change tensors; yield those that are not stored yet."""
        begun: set[ObjectId] = set()
        for tensor in self._sources(ids, tick):
            made = self._request.transform.apply(tensor)
            if made is None:
                continue
            oid = _id_of(tensor.spec, made.words)
            if oid == tensor.id and not made.largest:
                continue
            self._derived[tensor.id] = DerivedTensor(tensor.id, oid, made.largest, made.relative, made.bound, 0)
            if oid in begun or self._is_stored(oid, batch):
                continue
            begun.add(oid)
            source = StoredSource(self._reader, oid, tensor.spec)
            yield (
                Content("tensor", oid, tensor.spec, source, 0, tensor.names, made.words, codecs=made.codecs),
                self._sides(tensor),
            )

    def _is_stored(self, oid: ObjectId, batch: WriteBatch) -> bool:
        there = self._session.chains([oid])
        return oid in there and rely_on(oid, there, batch)

    def _sides(self, tensor: SourceTensor) -> tuple[Side, ...]:
        """Return the base of a tensor as what its new elements may be stored against."""
        if tensor.base is None or tensor.spec.nbytes < SMALL_BYTES:
            return ()
        base = self._bases[tensor.id].id
        record = self._session.chains([base])[base]
        return (Side("previous", base, record.depth, record.chain_bytes),)

    def _replaced(self) -> Manifest:
        """Return the manifest of the source with the new tensors in the places of the old ones."""
        ids = {source: made.id for source, made in self._derived.items()}
        files = tuple(
            replace(
                file,
                segments=tuple(
                    replace(item, id=ids.get(item.id, item.id)) if item.kind == "tensor" else item
                    for item in file.segments
                ),
            )
            for file in self._manifest.files
        )
        tensors = tuple(replace(entry, id=ids.get(entry.id, entry.id)) for entry in self._manifest.tensors)
        return Manifest(files, tensors)

    def _protect(self, manifest: Manifest, new: Collection[ObjectId], batch: WriteBatch) -> None:
        """Have the batch protect what the new commit shares with others, and the bases of what is new."""
        shared = {oid for _, oid in manifest.segments()} - {*new} | {entry.id for entry in self._bases.values()}
        there = self._session.chains(shared)
        for oid in sorted(shared):
            if oid not in there or not rely_on(oid, there, batch):
                raise ConflictError(f"content {oid[:12]} went meanwhile; nothing was recorded", hint="mvc fsck")

    def _stored_sizes(self, manifest: Manifest) -> dict[ObjectId, int]:
        records = self._session.index.blobs({entry.id for entry in manifest.tensors})
        return {oid: record.location.length for oid, record in records.items()}

    def _commit(self, manifest: Manifest, sizes: Mapping[ObjectId, int], actor: Actor) -> Commit:
        request, transform = self._request, self._request.transform
        tensors = [replace(made, stored_bytes=sizes[made.id]) for made in self._derived.values()]
        derivation = Derivation(
            request.source,
            request.base,
            transform.method,
            request.parameters,
            transform.calibration,
            tuple(sorted(tensors, key=lambda tensor: (tensor.id, tensor.source))),
        )
        source = self._session.record(request.source)
        message = request.message or f"{source.message.partition(chr(10))[0]} ({transform.summary})"
        parents = (request.base,) if request.base else ()
        return Commit(manifest.id, parents, actor.author, now(), message.strip(), {}, derivation)


def _fits(names: Collection[str], patterns: Collection[str]) -> bool:
    """Return whether any of the names is like any of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _stored(manifest: Manifest) -> Iterator[TensorEntry]:
    """Yield the tensors that a file is made of; those without elements are nowhere."""
    ids = {oid for _, oid in manifest.segments()}
    return (entry for entry in manifest.tensors if entry.id in ids)


def _bases(source: Manifest, base: Manifest) -> dict[ObjectId, TensorEntry]:
    """Return for each tensor the one of the same name, type and shape in the base, that of the same file if need be.

    Those that are views are left out.
    """
    theirs: dict[tuple[str | None, str], TensorEntry] = {}
    for entry in _stored(base):
        if entry.view is None:
            for path in (base.files[entry.file].path, None):
                theirs.setdefault((path, entry.name), entry)
    found: dict[ObjectId, TensorEntry] = {}
    for entry in _stored(source):
        path = source.files[entry.file].path
        near = theirs.get((path, entry.name)) or theirs.get((None, entry.name))
        if near is not None and near.spec == entry.spec:
            found.setdefault(entry.id, near)
    return found


def _id_of(spec: TensorSpec, words: Bytes) -> ObjectId:
    running = content_hasher(spec)
    running.update(words.data)
    return finish(running)
