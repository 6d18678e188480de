"""Where a repair finds what was lost: the work tree, and other repositories. Nothing is believed but ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mvc.codecs import Bytes
from mvc.errors import InvalidInputError, MvcError, NotFoundError
from mvc.formats import FileMap
from mvc.formats.opaque import Opaque
from mvc.objects.ids import digest
from mvc.objects.operation import Operation
from mvc.repo.ignore import find_files, ignore_rules
from mvc.repo.layout import Layout, check_format, find_layout
from mvc.repo.materialize import ContentReader
from mvc.repo.repair_plan import Wanted
from mvc.repo.scan import Content, scan
from mvc.repo.session import Session
from mvc.repo.sources import Read, Source
from mvc.repo.stored_metadata import METADATA_KINDS
from mvc.repo.tree import worktree_source
from mvc.settings import Settings
from mvc.store.layout import EntryKind, Location
from mvc.store.metadata import unwrap_metadata
from mvc.types import ObjectId
from mvc.types.tensors import TensorSpec

__all__ = ["Donor", "Supply", "open_donors", "search"]


@dataclass
class Supply:
    """What was found, verified against its ids.

    Parameters
    ----------
    origins : dict of ObjectId to str
        Where each object is, in words.
    contents : dict of ObjectId to Content
        How to read contents; who does verifies them once more.
    metadata : dict of ObjectId to (EntryKind, bytes)
        Canonical bytes of commits, tags and manifests.
    operations : dict of ObjectId to Operation
        Operations.
    """

    origins: dict[ObjectId, str] = field(default_factory=dict)
    contents: dict[ObjectId, Content] = field(default_factory=dict)
    metadata: dict[ObjectId, tuple[EntryKind, bytes]] = field(default_factory=dict)
    operations: dict[ObjectId, Operation] = field(default_factory=dict)


@dataclass(frozen=True)
class _StoredContent(Source):
    """A content of another repository, as something to be encoded."""

    reader: ContentReader
    oid: ObjectId
    spec: TensorSpec
    path: str
    mode: int = 0o644

    @property
    def size(self) -> int:
        """See `Source.size`."""
        return self.spec.nbytes

    def locate(self) -> FileMap:
        """See `Source.locate`; there is nothing inside of a content."""
        return FileMap(Opaque.name, ())

    def open(self) -> AbstractContextManager[Read]:
        """See `Source.open`."""
        return nullcontext(self._read)

    def _read(self, offset: int, out: Bytes) -> None:
        width = self.spec.dtype.word_bytes
        out[:] = self.reader.words(self.oid, offset // width, out.nbytes // width)


class Donor:
    """Another repository, which is only read, and not even its index is used.

    Parameters
    ----------
    layout : Layout
        Where it is.
    pool : Executor
        Threads that decode.
    """

    def __init__(self, layout: Layout, pool: Executor) -> None:
        self.name = str(layout.root)
        session = Session(layout, settings=Settings())
        self._store = session.store
        self._reader = ContentReader(session, pool, self._locate)

    def _locate(self, ids: Iterable[ObjectId]) -> dict[ObjectId, Location]:
        found = ((oid, self._store.find(oid)) for oid in ids)
        return {oid: location for oid, location in found if location}

    def content(self, oid: ObjectId) -> Content | None:
        """Return how to read a content, after it has been decoded and compared with its id; None if it has none."""
        with suppress(MvcError):
            envelope = self._reader.open(oid).envelope
            for _ in self._reader.stream([oid]):
                pass
            if envelope.spec.nbytes:
                source = _StoredContent(self._reader, oid, envelope.spec, self.name)
                return Content(envelope.kind, oid, envelope.spec, source, 0, ())
        return None

    def metadata(self, oid: ObjectId) -> tuple[EntryKind, bytes] | None:
        """Return a commit, tag or manifest; None if there is none, or none that can be read."""
        for location in self._store.copies(oid):
            with suppress(MvcError):
                data = unwrap_metadata(self._store.read(oid, location))
                for kind, (domain, decode) in METADATA_KINDS.items():
                    if digest(domain, data) == oid:
                        decode(data)
                        return kind, data
        return None

    def operation(self, oid: ObjectId) -> Operation | None:
        """Return an operation; None if there is none, or none that can be read."""
        with suppress(MvcError):
            return Operation.decode(self._store.operations.read(oid))
        return None

    def numbered(self, numbers: Collection[int]) -> Iterator[tuple[ObjectId, Operation]]:
        """Yield the operations of some numbers."""
        for oid in self._store.operations.ids() if numbers else ():
            operation = self.operation(oid)
            if operation is not None and operation.number in numbers:
                yield oid, operation


def open_donors(session: Session, directories: Sequence[Path], pool: Executor) -> list[Donor]:
    """Open the repositories in `directories`.

    Raises
    ------
    NotFoundError
        If a directory holds none.
    InvalidInputError
        If one is the repository that is to be repaired.
    FormatError
        If one is of an unknown format.
    """
    donors = []
    for directory in directories:
        layout = find_layout(directory.resolve())
        if layout is None:
            raise NotFoundError(f"{directory} holds no repository", hint="name the directory that holds .mvc")
        if layout.directory.samefile(session.layout.directory):
            raise InvalidInputError(f"{directory} is the repository that is to be repaired")
        check_format(layout)
        donors.append(Donor(layout, pool))
    return donors


def search(session: Session, wants: Wanted, donors: Sequence[Donor], pool: Executor) -> Supply:
    """Look for what is wanted: contents in the work tree first, then everything in `donors`, in their order."""
    supply = Supply()
    wanted = frozenset() if session.layout.bare else wants.contents
    for content in _in_worktree(session.layout.root, wanted, pool):
        if content.id not in supply.contents:
            supply.contents[content.id] = content
            supply.origins[content.id] = f"{content.source.path} of the work tree"
    for donor in donors:
        _ask(donor, wants, supply)
    return supply


def _ask(donor: Donor, wants: Wanted, supply: Supply) -> None:
    for oid in sorted(wants.contents - supply.origins.keys()):
        if (content := donor.content(oid)) is not None:
            supply.contents[oid], supply.origins[oid] = content, donor.name
    for oid in sorted(wants.metadata - supply.origins.keys()):
        if (metadata := donor.metadata(oid)) is not None:
            supply.metadata[oid], supply.origins[oid] = metadata, donor.name
    for oid in sorted(wants.operations - supply.origins.keys()):
        if (operation := donor.operation(oid)) is not None:
            supply.operations[oid], supply.origins[oid] = operation, donor.name
    for oid, operation in donor.numbered(wants.numbers):
        supply.operations.setdefault(oid, operation)
        supply.origins.setdefault(oid, donor.name)


def _in_worktree(root: Path, ids: Collection[ObjectId], pool: Executor) -> Iterator[Content]:
    """Yield contents of the files of the work tree that have one of `ids`; files that cannot be read have none."""
    if not ids:
        return
    try:
        paths = sorted(file.path for file in find_files(root, ignore_rules(root)) if file.regular)
    except MvcError:
        return
    for path in paths:
        with suppress(MvcError):
            source = worktree_source(root, path)
            for file in scan([source] if source else [], pool):
                yield from (content for content in file.contents if content.id in ids)
