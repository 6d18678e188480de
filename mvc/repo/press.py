"""Putting lossy stand-ins of commits into one batch: what `compress` and `thin` have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Final

import numpy as np

from mvc.codecs import Bytes
from mvc.errors import ConflictError, InvalidInputError
from mvc.index import Additions
from mvc.objects.blob import MAX_DEPTH
from mvc.objects.commit import Commit
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.fields import Scalar
from mvc.objects.ids import tensor_id
from mvc.objects.manifest import Manifest, SegmentKind, TensorEntry
from mvc.repo.candidates import Task
from mvc.repo.clock import Actor, now
from mvc.repo.encode import Encoder, Stored
from mvc.repo.materialize import ContentReader
from mvc.repo.plan import SMALL_BYTES, Side
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.record import additions, put_commit
from mvc.repo.reliance import rely_on
from mvc.repo.scan import Content
from mvc.repo.session import Session
from mvc.repo.slices import SliceBlob
from mvc.repo.sources import BytesSource
from mvc.repo.stored_source import StoredSource
from mvc.repo.transforms import SourceTensor, Transform
from mvc.settings import Delta, Level
from mvc.store.batch import WriteBatch
from mvc.store.layout import EntryKind
from mvc.types import DType, ObjectId, TensorSpec

__all__ = ["CompressRequest", "CompressResult", "Press", "shared_tensors", "stored_tensors"]

_BOUNDS: Final = Delta(depth=MAX_DEPTH - 1, read_factor=float("inf"))
"""Of the delta policy: what was made to be near to its base is stored as a delta of it, however deep that is."""


_MATRIX: Final = 2
"""Dimensions of what is stored against zeros."""


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
    chained : bool
        Whether the source may have lost something already: the loss is then against the source as it is, and what is
        counted as new is what the source has not.
    inside : str
        The directory, ending in a slash, of the files that are changed; all if it has no name. Of a method that knows
        one model those right in it.
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
    chained: bool = False
    inside: str = ""

    def changes(self, path: str) -> bool:
        """Return whether the tensors of a file may change."""
        right_there = "/" not in path.removeprefix(self.inside)
        return path.startswith(self.inside) and (right_there or not self.transform.one_model)

    @property
    def parameters(self) -> dict[str, Scalar]:
        """What a commit records of the settings, after it was made."""
        asked = {"tensors": " ".join(self.tensors), "exact": " ".join(self.exact), "gate": self.gate}
        asked |= {"prefix": self.inside}
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


class Press:
    """Compresses commits, one after the other, into one batch. A commit may be stored against one made before it.

    Parameters
    ----------
    session : Session
        The repository.
    pool : Executor
        Threads that work.
    batch : WriteBatch
        Where new tensors, manifests and commits go.
    level : Level
        How hard to try to be small.
    """

    def __init__(self, session: Session, pool: Executor, batch: WriteBatch, level: Level) -> None:
        self._session = session
        self._batch = batch
        self._reader = ContentReader(session, pool)
        self._encoder = Encoder(self._reader, pool, 2 * session.threads, level, _BOUNDS)
        self._stored: dict[ObjectId, Stored] = {}
        self._slices: dict[ObjectId, SliceBlob] = {}
        self._made: list[CompressResult] = []

    def compress(self, request: CompressRequest, actor: Actor, progress: Progress = silent) -> CompressResult | None:
        """Put new tensors and a commit of them into the batch; None if the method changes nothing.

        Raises
        ------
        InvalidInputError
            If the base shares nothing with the source, or the method cannot be applied.
        """
        work = _Compression(self, request)
        with progress("compressing", work.bytes) as tick:
            result = work.run(actor, tick)
        if result is not None:
            self.add(result)
        return result

    def add(self, result: CompressResult) -> None:
        """Count a commit that was put into the batch among those that are made visible."""
        self._made.append(result)

    def commit(self) -> tuple[Additions, ...]:
        """Make everything durable and visible; return what to tell the index, commit by commit."""
        self._encoder.confirm(self._stored.values())
        places = self._batch.commit()
        blobs = [item.record(places[oid]) for oid, item in self._stored.items()]
        blobs += [item.record(places[oid]) for oid, item in self._slices.items()]
        parts = [blobs] + [[]] * (len(self._made) - 1)
        return tuple(
            additions(made.commit, made.manifest, places, part) for made, part in zip(self._made, parts, strict=True)
        )

    def manifest(self, commit: ObjectId) -> Manifest:
        """Return the manifest of a commit, which may be in the batch."""
        made = next((item for item in self._made if item.commit.id == commit), None)
        return made.manifest if made else self._session.manifest(commit)

    def store(self, tasks: Iterable[Task]) -> None:
        """Encode new tensors."""
        for item in self._encoder.store(tasks, self._batch):
            self._stored[item.content.id] = item

    def put_slice(self, blob: SliceBlob) -> None:
        """Store what is left of a tensor, as which part of it that is."""
        oid = blob.envelope.id
        if self._batch.put(EntryKind.TENSOR, oid, [blob.envelope.header, blob.frames]):
            self._slices[oid] = blob

    def full_bytes(self, content: Content) -> float:
        """Return about what a tensor would take if it were stored on its own."""
        return min(option.stored_bytes for option in self._encoder.options(content, ()))

    def is_stored(self, oid: ObjectId) -> bool:
        """Return whether a tensor is in the batch, or in the store, where the batch then protects it."""
        if oid in self._stored or oid in self._slices:
            return True
        there = self._session.chains([oid])
        return oid in there and rely_on(oid, there, self._batch)

    def protect(self, contents: Iterable[ObjectId]) -> None:
        """Have the batch protect what is in the store of contents that a new commit names or needs."""
        shared = {*contents} - self._stored.keys() - self._slices.keys()
        there = self._session.chains(shared)
        for oid in sorted(shared):
            if oid not in there or not rely_on(oid, there, self._batch):
                raise ConflictError(f"content {oid[:12]} went meanwhile; nothing was recorded", hint="mvc fsck")

    def side(self, oid: ObjectId) -> Side:
        """Return a tensor of the batch or the store as what others may be stored against."""
        if oid in self._stored:
            item = self._stored[oid]
            return Side("previous", oid, item.option.depth, int(item.chain_bytes))
        record = self._session.chains([oid])[oid]
        return Side("previous", oid, record.depth, record.chain_bytes)

    def sizes(self, tensors: Iterable[ObjectId]) -> dict[ObjectId, int]:
        """Return the stored bytes of tensors."""
        wanted = {*tensors}
        records = self._session.index.blobs(wanted)
        known = {oid: self._stored[oid].stored_bytes for oid in wanted & self._stored.keys()}
        known |= {oid: self._slices[oid].envelope.stored_bytes for oid in wanted & self._slices.keys()}
        return {oid: record.location.length for oid, record in records.items()} | known

    @property
    def session(self) -> Session:
        """The repository."""
        return self._session

    @property
    def reader(self) -> ContentReader:
        """What reads stored tensors."""
        return self._reader

    @property
    def batch(self) -> WriteBatch:
        """Where everything goes."""
        return self._batch


@dataclass(frozen=True)
class _Remade(StoredSource):
    """A new tensor that may not be stored yet: made again, a part at a time, of the one that it stands for.

    Parameters
    ----------
    origin : ObjectId
        That one.
    again : callable
        As in `Made`.
    """

    origin: ObjectId = field(kw_only=True)
    again: Callable[[Bytes], Bytes] = field(kw_only=True)

    def _read(self, offset: int, out: Bytes) -> None:
        width = self.spec.dtype.word_bytes
        out[:] = self.again(self.reader.words(self.origin, offset // width, out.nbytes // width))


class _Compression:
    """One compression under way."""

    def __init__(self, press: Press, request: CompressRequest) -> None:
        self._press = press
        self._session = press.session
        self._request = request
        self._manifest = self._session.manifest(request.source)
        self._names = self._names_inside()
        base = press.manifest(request.base) if request.base else None
        self._bases = shared_tensors(self._manifest, base) if base else {}
        near = self._manifest if request.chained else base
        self._shared = {entry.id for entry in near.tensors} if near else set()
        if request.base and not self._bases:
            raise InvalidInputError(
                f"no tensor of base {request.base[:12]} is of name, type and shape of one in {request.source[:12]}",
                hint="the base is the commit that the model was tuned from",
            )
        self._wanted = self._chosen()
        self._derived: dict[ObjectId, DerivedTensor] = {}
        self._zeros: dict[DType, ObjectId] = {}

    def _names_inside(self) -> dict[ObjectId, tuple[str, ...]]:
        """Return the tensors of the files that are changed, with the names that they have there."""
        found: dict[ObjectId, list[str]] = {}
        for entry in stored_tensors(self._manifest):
            if self._request.changes(self._manifest.files[entry.file].path):
                found.setdefault(entry.id, []).append(entry.name)
        return {oid: tuple(sorted({*names})) for oid, names in found.items()}

    @property
    def bytes(self) -> int:
        """Decoded bytes of the tensors to change."""
        wanted = {*self._wanted}
        return sum(size for (_, oid), size in self._manifest.segments().items() if oid in wanted)

    def run(self, actor: Actor, tick: Tick) -> CompressResult | None:
        """Put the new tensors, then the commit, into the batch; None if nothing changes."""
        press, request = self._press, self._request
        self._session.supply(self._read_contents())
        request.transform.prepare(lambda: self._sources(lambda _: None), self._rest)
        if request.transform.on_zeros:
            self._put_zeros()
        press.store(self._tasks(tick))
        if not self._derived:
            return None
        manifest = self._replaced()
        needed = {entry.id for entry in self._bases.values()} | {*self._zeros.values()}
        press.protect({oid for _, oid in manifest.segments()} | needed)
        sizes = press.sizes(entry.id for entry in manifest.tensors)
        commit = self._commit(manifest, sizes, actor)
        put_commit(press.batch, commit, manifest)
        total = sum(sizes.get(oid, 0) for oid in self._own(manifest))
        return CompressResult(commit, manifest, press.batch.stored_bytes, total)

    def _own(self, manifest: Manifest) -> set[ObjectId]:
        """Return the tensors that are not the base's."""
        return {entry.id for entry in manifest.tensors} - self._shared

    def _rest(self, changed: Collection[ObjectId]) -> int:
        """Return the stored bytes of what stays of the source, but for what is the base's."""
        return sum(self._press.sizes(self._own(self._manifest) - {*changed}).values())

    def _chosen(self) -> list[ObjectId]:
        """Return the tensors to change, in the order of the files."""
        patterns, exact = self._request.tensors or ("*",), self._request.exact
        found = [oid for oid, names in self._names.items() if _fits(names, patterns) and not _fits(names, exact)]
        if not found:
            like = f" with a name like {', '.join(patterns)}" if self._request.tensors else ""
            like += f" other than {', '.join(exact)}" if exact else ""
            like += f" right in {self._request.inside or 'its root'}" if self._request.transform.one_model else ""
            raise InvalidInputError(
                f"commit {self._request.source[:12]} has no tensor{like} that holds anything",
                hint=f"mvc show {self._request.source[:12]} --encodings lists them",
            )
        return found

    def _read_contents(self) -> dict[tuple[SegmentKind, ObjectId], int]:
        """Return what must be stored here: all of the source, of which the new commit shares the rest, and bases."""
        wanted = {*self._wanted} if self._request.transform.reads_bases else set()
        bases = {entry.id: entry.spec.nbytes for oid, entry in self._bases.items() if oid in wanted}
        return {**self._manifest.segments(), **{("tensor", oid): size for oid, size in bases.items()}}

    def _sources(self, tick: Tick) -> Iterator[SourceTensor]:
        """Read tensors and, for methods that look at them, their bases, one after the other."""
        bases = {oid: entry for oid, entry in self._bases.items() if self._request.transform.reads_bases}
        reader, ids = self._press.reader, self._wanted
        reader.prepare([*ids, *(entry.id for oid, entry in bases.items() if oid in set(ids))])
        for oid in ids:
            spec = reader.open(oid).envelope.spec
            base = bases.get(oid)
            words = reader.read(oid)
            near = reader.read(base.id) if base is not None and base.spec == spec else None
            yield SourceTensor(oid, self._names[oid], spec, words, near)
            tick(spec.nbytes)

    def _tasks(self, tick: Tick) -> Iterator[Task]:
        """Change tensors; yield those that are not stored yet."""
        begun: set[ObjectId] = set()
        for tensor in self._sources(tick):
            made = self._request.transform.apply(tensor)
            if made is None:
                continue
            oid = tensor_id(tensor.spec, made.words.data)
            if oid == tensor.id and not made.largest:
                continue
            self._derived[tensor.id] = DerivedTensor(tensor.id, oid, made.largest, made.relative, made.bound, 0)
            if oid in begun or self._press.is_stored(oid):
                continue
            begun.add(oid)
            source = StoredSource(self._press.reader, oid, tensor.spec)
            if made.again is not None:
                source = _Remade(self._press.reader, oid, tensor.spec, origin=tensor.id, again=made.again)
            yield (
                Content("tensor", oid, tensor.spec, source, 0, tensor.names, made.words, codecs=made.codecs),
                self._sides(tensor),
            )

    def _put_zeros(self) -> None:
        """Store a matrix of one zero of each type: fitted to another shape (spec-v1, section 5) it is all zeros."""
        specs = {entry.spec for entry in self._manifest.tensors if entry.id in self._wanted}
        for dtype in sorted({spec.dtype for spec in specs if len(spec.shape) == _MATRIX}, key=attrgetter("name")):
            spec = TensorSpec(dtype, (1,) * _MATRIX)
            words = np.zeros(spec.nbytes, np.uint8)
            oid = self._zeros[dtype] = tensor_id(spec, words.data)
            if not self._press.is_stored(oid):
                source = BytesSource("zeros", words.tobytes())
                self._press.store([(Content("tensor", oid, spec, source, 0, (), words), ())])

    def _sides(self, tensor: SourceTensor) -> tuple[Side, ...]:
        """Return the base of a tensor, or zeros, as what its new elements may be stored against."""
        if tensor.spec.dtype in self._zeros and len(tensor.spec.shape) == _MATRIX:
            return (self._press.side(self._zeros[tensor.spec.dtype]),)
        base = self._bases.get(tensor.id)
        if base is None or base.spec != tensor.spec or tensor.spec.nbytes < SMALL_BYTES:
            return ()
        return (self._press.side(base.id),)

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
            if self._request.changes(file.path)
            else file
            for file in self._manifest.files
        )
        tensors = tuple(
            replace(entry, id=ids.get(entry.id, entry.id)) if self._request.changes(files[entry.file].path) else entry
            for entry in self._manifest.tensors
        )
        return Manifest(files, tensors)

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
        done = f"{source.message.partition(chr(10))[0]} ({transform.summary})"
        message = (request.message or "").strip() or done.strip()
        parents = (request.base,) if request.base else ()
        return Commit(manifest.id, parents, actor.author, now(), message, {}, derivation)


def _fits(names: Collection[str], patterns: Collection[str]) -> bool:
    """Return whether any of the names is like any of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def stored_tensors(manifest: Manifest) -> Iterator[TensorEntry]:
    """Yield the tensors that a file is made of; those without elements are nowhere."""
    ids = {oid for _, oid in manifest.segments()}
    return (entry for entry in manifest.tensors if entry.id in ids)


def shared_tensors(source: Manifest, base: Manifest) -> dict[ObjectId, TensorEntry]:
    """Return for each tensor the one of the same name, type and shape in the base, that of the same file if need be.

    Those that are views are left out.
    """
    theirs: dict[tuple[str | None, str], TensorEntry] = {}
    for entry in stored_tensors(base):
        if entry.view is None:
            for path in (base.files[entry.file].path, None):
                theirs.setdefault((path, entry.name), entry)
    found: dict[ObjectId, TensorEntry] = {}
    for entry in stored_tensors(source):
        path = source.files[entry.file].path
        near = theirs.get((path, entry.name)) or theirs.get((None, entry.name))
        if near is not None and near.spec == entry.spec:
            found.setdefault(entry.id, near)
    return found
