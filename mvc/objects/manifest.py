"""The manifest: which files a commit holds, of which segments, and which tensors they name (spec-v1, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from operator import ge
from typing import Final, Generic, Literal, TypeVar

from mvc.errors import InvalidInputError, MalformedError
from mvc.objects.canonical import Rows, Value, decode, encode
from mvc.objects.fields import array, integer, oid, record, text
from mvc.objects.ids import MANIFEST, digest
from mvc.objects.paths import check_path, check_paths
from mvc.types import ObjectId, TensorSpec, View, dtype_of, raw_id
from mvc.types.limits import MAX_NAME_BYTES, MAX_TENSORS

__all__ = ["FileEntry", "Manifest", "ManifestDecoder", "Segment", "SegmentKind", "TensorEntry"]

SegmentKind = Literal["literal", "tensor"]
T = TypeVar("T")

_KINDS: Final[tuple[SegmentKind, ...]] = ("literal", "tensor")
_FIELDS: Final = frozenset({"files", "tensors"})
_MODES: Final = (0o644, 0o755)
_SPECS_KEPT: Final = 1024
"""Shapes kept: a model has a few dozen, however many tensors it has."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of bytes of a file.

    Parameters
    ----------
    kind : SegmentKind
        Whether `id` is of a literal or of a tensor.
    id : ObjectId
        Content id.
    length : int
        Bytes, at least 1.
    """

    kind: SegmentKind
    id: ObjectId
    length: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: concatenating its decoded segments gives it back.

    Parameters
    ----------
    path : str
        Relative, ``/`` between components.
    mode : int
        ``0o644`` or ``0o755``.
    format : str
        Name of the format that found the tensors.
    segments : tuple of Segment
        In the order of the file.
    """

    path: str
    mode: int
    format: str
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(segment.length for segment in self.segments)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A name for a tensor of one file.

    Parameters
    ----------
    name : str
        As the framework knows it.
    file : int
        Index of the file in `Manifest.files`.
    id : ObjectId
        The stored tensor.
    spec : TensorSpec
        Element type and shape under this name.
    view : View, optional
        Where the elements lie in the stored one-dimensional tensor, if not simply all of it.
    """

    name: str
    file: int
    id: ObjectId
    spec: TensorSpec
    view: View | None = None

    @property
    def sort_key(self) -> tuple[int, bytes]:
        """Order of entries in a manifest."""
        return self.file, self.name.encode()


@dataclass(frozen=True)
class Manifest:
    """The content of a commit.

    Parameters
    ----------
    files : tuple of FileEntry
        Sorted by path.
    tensors : tuple of TensorEntry
        Sorted by (file, name).

    Raises
    ------
    InvalidInputError
        If a path, name, order, view, length or reference breaks a rule of the specification.
    """

    files: tuple[FileEntry, ...]
    tensors: tuple[TensorEntry, ...]

    def __post_init__(self) -> None:
        _check_files(self.files)
        _check_lengths(self.files)
        _check_tensors(self.files, self.tensors)

    @cached_property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        return encode(
            {"files": [_file_value(f) for f in self.files], "tensors": [_tensor_value(t) for t in self.tensors]}
        )

    @cached_property
    def id(self) -> ObjectId:
        """The manifest's id."""
        return digest(MANIFEST, self.encoded)

    @cached_property
    def names(self) -> Mapping[ObjectId, tuple[str, ...]]:
        """What each tensor is called, in the order of the files."""
        found: dict[ObjectId, tuple[str, ...]] = {}
        for entry in self.tensors:
            found[entry.id] = (*found.get(entry.id, ()), entry.name)
        return found

    @cached_property
    def by_path(self) -> Mapping[str, FileEntry]:
        """The files by path."""
        return {file.path: file for file in self.files}

    @property
    def size(self) -> int:
        """Bytes of all files: the logical size of the commit."""
        return sum(file.size for file in self.files)

    def segments(self) -> dict[tuple[SegmentKind, ObjectId], int]:
        """Return length by (kind, id) of every segment, each once, in the order of the files."""
        return {(s.kind, s.id): s.length for file in self.files for s in file.segments}

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Return the manifest that `data` encodes.

        Raises
        ------
        MalformedError
            If `data` is not the canonical encoding of a valid manifest.
        FormatError
            If it names a dtype that this release does not know.
        """
        return _read_manifest(decode(data), _read_segment, _read_tensor)


class ManifestDecoder:
    """Decodes manifests one after the other, and what one has in common with the one before only once.

    For those who walk along a history. May not be used by two threads at a time.
    """

    def __init__(self) -> None:
        self._rows = Rows()
        self._segments, self._tensors = _Once(_read_segment), _Once(_read_tensor)

    def decode(self, data: bytes) -> Manifest:
        """Return the manifest that `data` encodes; errors as of `Manifest.decode`."""
        self._segments.turn()
        self._tensors.turn()
        return _read_manifest(decode(data, self._rows), self._segments, self._tensors)


class _Once(Generic[T]):
    """A function that remembers what it made of the values that it was given in this turn and the one before."""

    def __init__(self, function: Callable[[Value], T]) -> None:
        self._function = function
        self._before: dict[int, tuple[Value, T]] = {}
        self._now: dict[int, tuple[Value, T]] = {}

    def turn(self) -> None:
        """Begin a turn."""
        self._before, self._now = self._now, {}

    def __call__(self, value: Value) -> T:
        """Return what the function makes of `value`; the same object is known by its address while it is kept."""
        made = self._before.get(id(value)) or (value, self._function(value))
        self._now[id(value)] = made
        return made[1]


def _read_manifest(
    value: Value, segment: Callable[[Value], Segment], tensor: Callable[[Value], TensorEntry]
) -> Manifest:
    fields = record(value, _FIELDS, "manifest")
    try:
        return Manifest(
            tuple([_read_file(item, segment) for item in array(fields["files"], "files")]),
            tuple([tensor(item) for item in array(fields["tensors"], "tensors", most=MAX_TENSORS)]),
        )
    except InvalidInputError as error:
        raise MalformedError(f"manifest breaks a rule: {error.message}") from error


def _file_value(file: FileEntry) -> Value:
    segments: list[Value] = [[_KINDS.index(s.kind), raw_id(s.id), s.length] for s in file.segments]
    return [file.path, file.mode, file.format, segments]


def _tensor_value(entry: TensorEntry) -> Value:
    value: list[Value] = [entry.name, entry.file, raw_id(entry.id), entry.spec.dtype.name, list(entry.spec.shape)]
    return [*value, entry.view.offset, list(entry.view.strides)] if entry.view else value


def _read_file(value: Value, segment: Callable[[Value], Segment]) -> FileEntry:
    path, mode, name, segments = array(value, "file", (4,))
    return FileEntry(
        text(path, "path"),
        integer(mode, "mode"),
        text(name, "format", 64),
        tuple([segment(item) for item in array(segments, "segments")]),
    )


def _read_segment(value: Value) -> Segment:
    kind, oid_, length = array(value, "segment", (3,))
    return Segment(_KINDS[integer(kind, "segment kind", 0, 1)], oid(oid_, "segment id"), integer(length, "length", 1))


def _read_tensor(value: Value) -> TensorEntry:
    name, file, oid_, dtype, shape, *view = array(value, "tensor", (5, 7))
    return TensorEntry(
        text(name, "tensor name", MAX_NAME_BYTES),
        integer(file, "file index"),
        oid(oid_, "tensor id"),
        _spec(text(dtype, "dtype", 32), _integers(shape, "shape")),
        View(integer(view[0], "view offset"), _integers(view[1], "strides")) if view else None,
    )


@lru_cache(maxsize=_SPECS_KEPT)
def _spec(dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(dtype_of(dtype), shape)


def _integers(value: Value, noun: str) -> tuple[int, ...]:
    return tuple([integer(item, noun, 0, 1 << 62) for item in array(value, noun)])


def _check_files(files: tuple[FileEntry, ...]) -> None:
    paths = [check_path(file.path) for file in files]
    if paths != sorted(paths, key=str.encode):
        raise InvalidInputError("files are not in the order of their paths")
    check_paths(paths)
    for file in files:
        if file.mode not in _MODES:
            raise InvalidInputError(f"mode {file.mode:o} of {file.path!r} is neither 644 nor 755")
        kinds = [segment.kind for segment in file.segments]
        if any(one == other == "literal" for one, other in pairwise(kinds)):
            raise InvalidInputError(f"two literals follow each other in {file.path!r}")


def _check_lengths(files: tuple[FileEntry, ...]) -> None:
    """Refuse a content of two lengths: the bytes of an id are one number of bytes."""
    known: dict[tuple[SegmentKind, ObjectId], int] = {}
    for file in files:
        for segment in file.segments:
            length = known.setdefault((segment.kind, segment.id), segment.length)
            if length != segment.length:
                raise InvalidInputError(
                    f"{segment.kind} {segment.id} has {length} bytes, and {segment.length} in {file.path!r}"
                )


def _check_tensors(files: tuple[FileEntry, ...], tensors: tuple[TensorEntry, ...]) -> None:
    if len(tensors) > MAX_TENSORS:
        raise InvalidInputError(f"{len(tensors)} tensors; at most {MAX_TENSORS} are allowed in a commit")
    keys = [entry.sort_key for entry in tensors]
    if any(map(ge, keys, keys[1:])):
        raise InvalidInputError("tensors are not in order, or a file names one twice")
    lengths = [{s.id: s.length for s in file.segments if s.kind == "tensor"} for file in files]
    for entry, (_, name) in zip(tensors, keys, strict=True):
        if entry.file >= len(files):
            raise InvalidInputError(f"tensor {entry.name!r} names file {entry.file} of {len(files)}")
        if len(name) > MAX_NAME_BYTES:
            raise InvalidInputError(f"the name {entry.name[:40]!r}... has more than {MAX_NAME_BYTES} bytes")
        _check_extent(entry, lengths[entry.file].get(entry.id, 0))


def _check_extent(entry: TensorEntry, length: int) -> None:
    if entry.view is None:
        fits = entry.spec.nbytes == length
    elif len(entry.view.strides) != len(entry.spec.shape):
        fits = False
    else:
        fits = 8 * length >= entry.view.end(entry.spec.shape) * entry.spec.dtype.bits
    if not fits:
        raise InvalidInputError(f"tensor {entry.name!r} does not fit its segment of {length} bytes")
