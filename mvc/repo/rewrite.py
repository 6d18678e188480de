"""A commit on top of another one, with some of its tensors replaced and some files beside: what healing makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mvc.codecs import Bytes, Codec
from mvc.errors import InvalidInputError, StorageError
from mvc.formats import FileMap
from mvc.lossy import measured
from mvc.objects.derivation import Derivation, DerivedTensor
from mvc.objects.fields import Scalar
from mvc.objects.ids import tensor_id
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.objects.refnames import branch_ref
from mvc.repo.branches import check_new_branch
from mvc.repo.clock import Actor
from mvc.repo.commit import CommitRequest, CommitResult, Target, commit
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress, silent
from mvc.repo.session import Session
from mvc.repo.sources import Read, Source
from mvc.repo.tree import Selection, worktree_source
from mvc.settings import Level
from mvc.types import ObjectId

__all__ = ["Replacement", "RewriteRequest", "check_rewritable", "rewrite", "tensors_in"]


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """What becomes of a tensor.

    Parameters
    ----------
    words : Bytes
        Its new elements, little-endian, as many as before.
    codecs : tuple of Codec
        Those that store it in few bytes.
    """

    words: Bytes
    codecs: tuple[Codec, ...] = ()


@dataclass(frozen=True, slots=True)
class RewriteRequest:
    """What to record.

    Parameters
    ----------
    source : ObjectId
        The commit, which becomes the parent.
    method : str
        What was done.
    parameters : mapping of str to scalar
        With which settings, and what came of it.
    data : ObjectId
        BLAKE3 of the file of samples.
    tensors : mapping of str to Replacement
        What changes, by name.
    files : mapping of str to bytes
        Files to put beside the others, by their paths below `prefix`.
    prefix : str
        Directory of the model in the commit: only of the files in it do tensors change, not of those below.
    branch : str or None
        Short name of a new branch for it.
    message : str or None
        By default what was done.
    base : ObjectId or None
        The commit that new modules were made for; by default that of the source's derivation.
    level : Level
        How hard to try to be small.
    """

    source: ObjectId
    method: str
    parameters: Mapping[str, Scalar]
    data: ObjectId
    tensors: Mapping[str, Replacement] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    prefix: str = ""
    branch: str | None = None
    message: str | None = None
    base: ObjectId | None = None
    level: Level = "default"

    @property
    def inside(self) -> str:
        """What paths of the model begin with."""
        return _inside(self.prefix)


def check_rewritable(session: Session, branch: str | None) -> None:
    """Refuse a branch that cannot be made, or a repository that cannot be written, before any work is done.

    Raises
    ------
    AlreadyExistsError, InvalidInputError
        As for `check_new_branch`.
    """
    session.check_writable()
    if branch is not None:
        check_new_branch(session.refs.state(), branch)


def tensors_in(manifest: Manifest, prefix: str) -> list[TensorEntry]:
    """Return the tensors of the files in a directory: those below it are of other models."""
    inside = _inside(prefix)
    paths = [file.path for file in manifest.files]
    here = [path.startswith(inside) and "/" not in path.removeprefix(inside) for path in paths]
    return [entry for entry in manifest.tensors if here[entry.file]]


def _inside(prefix: str) -> str:
    return f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def rewrite(
    session: Session, request: RewriteRequest, directory: Path, actor: Actor, progress: Progress = silent
) -> CommitResult:
    """Record a commit whose parent is another one, of which it has everything but what is replaced.

    Parameters
    ----------
    session : Session
        The repository.
    request : RewriteRequest
        What to record.
    directory : Path
        The files of the source below `RewriteRequest.prefix`, in which tensors are replaced.
    actor : Actor
        Who, and by which command.
    progress : callable
        Told how far the work is.

    Raises
    ------
    InvalidInputError
        If a tensor is not in the files, only as a view of another one, or another one in each of two files.
    AlreadyExistsError
        If there is such a branch.
    """
    manifest = session.manifest(request.source)
    entries = _entries(manifest, request)
    derivation = _derivation(session, request, entries)
    sources: list[Source] = []
    for path in sorted({manifest.files[entry.file].path for entry in entries}):
        here = {entry.name for entry in entries if manifest.files[entry.file].path == path}
        sources.append(_replaced(directory, path, request, here))
    sources += [_beside(directory, name, request) for name in sorted(request.files)]
    selection = Selection(tuple(sources), tuple(source.path for source in sources), in_worktree=False)
    asked = CommitRequest(_message(session, request), {}, request.level, derivation=derivation)
    target = Target(branch_ref(request.branch) if request.branch else None, None, (request.source,))
    return commit(session, selection, asked, actor, progress, target=target)


def _message(session: Session, request: RewriteRequest) -> str:
    subject = session.record(request.source).message.partition("\n")[0]
    return (request.message or "").strip() or f"{subject} ({request.method})".strip()


def _entries(manifest: Manifest, request: RewriteRequest) -> list[TensorEntry]:
    """Return the tensors that are replaced, in every file of the directory that holds one of that name."""
    found = [entry for entry in tensors_in(manifest, request.prefix) if entry.name in request.tensors]
    first: dict[str, TensorEntry] = {}
    for entry in found:
        if entry.view is not None or entry.spec.nbytes != request.tensors[entry.name].words.nbytes:
            raise InvalidInputError(
                f"{entry.name} of {manifest.files[entry.file].path} is a view, or of another size, and is not replaced",
                hint="save the model as safetensors",
            )
        if first.setdefault(entry.name, entry).id != entry.id:
            paths = (manifest.files[place].path for place in (first[entry.name].file, entry.file))
            raise InvalidInputError(
                f"{entry.name} is another tensor in {' than in '.join(paths)}, and is not replaced",
                hint="commit the model in one format",
            )
    if missing := sorted(request.tensors.keys() - {entry.name for entry in found}):
        raise InvalidInputError(f"commit {request.source[:12]} has no tensor {missing[0]}")
    return found


def _derivation(session: Session, request: RewriteRequest, entries: Sequence[TensorEntry]) -> Derivation:
    """Return what the commit says of itself; what its tensors take is not known yet."""
    made: dict[tuple[ObjectId, ObjectId], DerivedTensor] = {}
    with session.pool() as pool:
        reader = ContentReader(session, pool)
        reader.prepare(entry.id for entry in entries)
        for entry in entries:
            words = request.tensors[entry.name].words
            oid = tensor_id(entry.spec, words.data)
            if oid != entry.id:
                loss = measured(reader.read(entry.id), words, entry.spec.dtype)
                made[oid, entry.id] = DerivedTensor(entry.id, oid, loss.largest, loss.relative, None, 0)
    before = session.commit(request.source).derivation
    near = request.base or (before.base if before else None)
    tensors = tuple(tensor for _, tensor in sorted(made.items()))
    return Derivation(request.source, near, request.method, request.parameters, request.data, tensors)


def _replaced(directory: Path, path: str, request: RewriteRequest, names: set[str]) -> Source:
    """Write new elements into a file, and return it as one to be committed."""
    below = path.removeprefix(request.inside)
    regions = [
        (region.offset, next(name.name for name in region.names if name.name in names))
        for region in _source(directory, below, path).locate().regions
        if any(name.name in names for name in region.names)
    ]
    try:
        with (directory / below).open("r+b") as file:
            for offset, name in regions:
                file.seek(offset)
                file.write(request.tensors[name].words.data)
    except OSError as error:
        raise StorageError(f"{directory / below} cannot be written: {error.strerror}") from error
    codecs = {offset: request.tensors[name].codecs for offset, name in regions}
    return _Coded(_source(directory, below, path), codecs)


def _beside(directory: Path, name: str, request: RewriteRequest) -> Source:
    """Write a file beside the others, and return it: one of tensors is stored tensor by tensor."""
    try:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(request.files[name])
    except OSError as error:
        raise StorageError(f"{directory / name} cannot be written: {error.strerror}") from error
    return _source(directory, name, request.inside + name)


def _source(directory: Path, below: str, path: str) -> Source:
    found = worktree_source(directory, below)
    if found is None:
        raise InvalidInputError(f"{below} has gone from {directory}", hint="run the command again")
    return replace(found, path=path)


@dataclass(frozen=True)
class _Coded(Source):
    """A file of whose tensors it is known what stores them in few bytes.

    Parameters
    ----------
    source : Source
        The file.
    fitting : mapping of int to tuple of Codec
        Codecs by the offset of a tensor.
    """

    source: Source
    fitting: Mapping[int, tuple[Codec, ...]]

    @property
    def path(self) -> str:  # type: ignore[override]  # that of the file
        """See `Source.path`."""
        return self.source.path

    @property
    def mode(self) -> int:  # type: ignore[override]  # that of the file
        """See `Source.mode`."""
        return self.source.mode

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self.source.size

    def locate(self) -> FileMap:
        """See `Source.locate`."""
        return self.source.locate()

    def open(self) -> AbstractContextManager[Read]:
        """See `Source.open`."""
        return self.source.open()

    def codecs(self, offset: int) -> tuple[Codec, ...]:
        """See `Source.codecs`."""
        return self.fitting.get(offset, ())
