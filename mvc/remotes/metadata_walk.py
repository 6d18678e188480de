"""Following commits of a remote to what this repository has: a request for each pack, not for each commit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mvc.errors import IntegrityError
from mvc.objects.commit import Commit, Tag
from mvc.objects.manifest import Manifest
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings, Place
from mvc.remotes.ranges import Want, plan_ranges
from mvc.repo.stored_metadata import MetadataObject, decode_metadata
from mvc.store.layout import MAX_METADATA_BYTES, EntryKind
from mvc.types import ObjectId

__all__ = ["ManifestBatch", "MetadataWalk"]

ManifestBatch = Mapping[ObjectId, tuple[Manifest, bytes]]
"""Manifests, and how they are stored."""

_KEPT_BYTES: Final = 256 << 20
"""Bytes of metadata that were read along with others and may yet be wanted: the commits of 100,000 epochs."""
_BATCH_BYTES: Final = 8 << 20
"""Stored bytes of one batch of manifests: each fills some requests, and takes several times as much when decoded."""


class MetadataWalk:
    """Commits, tags and manifests of a remote, down to commits that are here.

    Parameters
    ----------
    engine : Engine
        The remote.
    holdings : Holdings
        What it holds.
    whole : callable
        Returns those of some ids that are commits which are here with all that they need.
    stored : callable
        Returns those of some ids that are metadata objects which are here, and need not be read along with others.
    batch_bytes : int
        Stored bytes of the manifests that are in memory, decoded, at once.

    Attributes
    ----------
    commits : dict of ObjectId to Commit
        New ones, in the order in which they were found: children mostly first.
    boundary : set of ObjectId
        Parents of these that are here; with a depth, all commits on the way that are.
    absent : set of ObjectId
        Commits that lie too deep, and are not here.
    """

    def __init__(
        self,
        engine: Engine,
        holdings: Holdings,
        whole: Callable[[Iterable[ObjectId]], Collection[ObjectId]],
        stored: Callable[[Iterable[ObjectId]], Collection[ObjectId]],
        batch_bytes: int = _BATCH_BYTES,
    ) -> None:
        self._engine = engine
        self._holdings = holdings
        self._whole = whole
        self._stored = stored
        self._batch_bytes = batch_bytes
        self._read: dict[ObjectId, bytes] = {}
        self._used: dict[ObjectId, tuple[EntryKind, bytes]] = {}
        self.commits: dict[ObjectId, Commit] = {}
        self.boundary: set[ObjectId] = set()
        self.absent: set[ObjectId] = set()
        self._alone = False
        self._yielded: set[ObjectId] = set()

    def follow(self, tips: Iterable[ObjectId]) -> None:
        """Read the commits that `tips`, commits and tag objects, reach and that are not here.

        Raises
        ------
        IntegrityError
            If something is missing from the remote, or is not what its id promises.
        """
        pending = set(tips)
        kinds: tuple[EntryKind, ...] = (EntryKind.COMMIT, EntryKind.TAG)
        while pending:
            self._fetch(pending)
            below: set[ObjectId] = set()
            for oid in sorted(pending):
                below |= self._visit(oid, kinds)
            kinds = (EntryKind.COMMIT,)  # a tag names a commit, and so does a commit
            below -= self.commits.keys() | self.boundary
            here = set(self._whole(below))
            self.boundary |= here
            pending = below - here

    def follow_down_to(
        self, tips: Iterable[ObjectId], depth: int, below: Callable[[Iterable[ObjectId]], Iterable[ObjectId]]
    ) -> None:
        """Read what is not here of the commits that are fewer than `depth` steps from `tips`, and nothing else.

        Parameters
        ----------
        tips : iterable of ObjectId
            Commits and tag objects; a tag is no step.
        depth : int
            Commits of history, at least 1: the tips only.
        below : callable
            Returns all parents of commits that are here.

        Raises
        ------
        IntegrityError
            As `follow`.
        """
        level, seen = set(tips), set[ObjectId]()
        kinds: tuple[EntryKind, ...] = (EntryKind.COMMIT, EntryKind.TAG)
        for _ in range(depth):
            deeper: set[ObjectId] = set()
            while level:  # once, and once more for the commits that tags name
                seen |= level
                here = set(self._whole(level))
                self.boundary |= here
                deeper.update(below(here))
                self._fetch(level - here, alone=True)
                named = {oid: self._visit(oid, kinds) for oid in sorted(level - here)}
                kinds = (EntryKind.COMMIT,)  # a tag names a commit, and so does a commit
                deeper.update(*(named[oid] for oid in named if oid in self.commits))
                level = {target for oid in named if oid not in self.commits for target in named[oid]} - seen
            level = deeper - seen
        self.absent = level - set(self._whole(level))
        self._alone = True

    def follow_tags(self, values: Iterable[ObjectId]) -> None:
        """Read those of some values of tags that are tag objects of commits which were read, or are here.

        Raises
        ------
        IntegrityError
            As `follow`.
        """
        found = [oid for oid in values if any(place.kind is EntryKind.TAG for place in self._holdings.places(oid))]
        self._fetch(found, alone=True)
        named = {oid: self._visit(oid, (EntryKind.TAG,)) for oid in found}
        targets = {target for below in named.values() for target in below}
        there = targets & self.commits.keys() | set(self._whole(targets - self.commits.keys()))
        for oid in [oid for oid, below in named.items() if below.isdisjoint(there)]:
            del self._used[oid]

    def bodies(self) -> Iterator[tuple[EntryKind, ObjectId, bytes]]:
        """Yield what is to be stored beside manifests: commits, then tags."""
        for wanted in (EntryKind.COMMIT, EntryKind.TAG):
            for oid, (kind, body) in self._used.items():
                if kind is wanted:
                    yield kind, oid, body

    def _visit(self, oid: ObjectId, kinds: tuple[EntryKind, ...]) -> set[ObjectId]:
        """Take note of a commit or a tag; return the commits that it names."""
        found = self._decoded(oid, kinds)
        if isinstance(found, Tag):
            return {found.target}
        assert isinstance(found, Commit)
        self.commits[oid] = found
        return set(found.parents)

    def manifests(self) -> Iterator[ManifestBatch]:
        """Yield the manifests of `commits`, oldest first, some at a time; what was yielded is not kept.

        Raises
        ------
        IntegrityError
            As `follow`.
        """
        ordered = sorted(self.commits.values(), key=lambda commit: commit.time)
        for wanted in self._portions(dict.fromkeys(commit.manifest for commit in ordered)):
            self._fetch(wanted, alone=self._alone)
            yield {oid: self._manifest(oid) for oid in wanted}

    def _portions(self, wanted: Iterable[ObjectId]) -> Iterator[list[ObjectId]]:
        portion: list[ObjectId] = []
        size = 0
        for oid in wanted:
            length = self._place(oid).length
            if portion and size + length > self._batch_bytes:
                yield portion
                portion, size = [], 0
            portion.append(oid)
            size += length
        if portion:
            yield portion

    def _manifest(self, oid: ObjectId) -> tuple[Manifest, bytes]:
        found = self._decoded(oid, (EntryKind.MANIFEST,))
        assert isinstance(found, Manifest)
        self._yielded.add(oid)
        return found, self._used.pop(oid)[1]

    def _decoded(self, oid: ObjectId, kinds: tuple[EntryKind, ...]) -> MetadataObject:
        body, problem = self._read.pop(oid), IntegrityError(f"object {oid} of {self._engine.url} is of another kind")
        for kind in kinds:
            try:
                found = decode_metadata(kind, oid, body)
            except IntegrityError as error:
                problem = error
            else:
                self._used[oid] = kind, body
                return found
        raise IntegrityError(f"{self._engine.url} is damaged: {problem.message}", hint="mvc fsck there") from problem

    def _fetch(self, wanted: Iterable[ObjectId], *, alone: bool = False) -> None:
        """Read what is wanted; and, unless `alone`, what lies in the same packs as far as it may be wanted later."""
        missing = [oid for oid in wanted if oid not in self._read]
        places = {oid: self._place(oid) for oid in missing}
        room = _KEPT_BYTES - sum(len(body) for body in self._read.values())
        for other in () if alone else self._along(missing):
            if not (other in places or other in self._read or other in self._used or other in self._yielded):
                place = self._place(other)
                room -= place.length
                if room < 0:
                    break
                places[other] = place
        self._receive(places)

    def _along(self, wanted: Iterable[ObjectId]) -> Iterator[ObjectId]:
        """Yield the metadata objects that lie in the same packs as `wanted`, and are not here."""
        packs = {self._place(oid).key: oid for oid in wanted}
        for oid in packs.values():
            beside = [*self._holdings.neighbours(oid)]
            here = set(self._stored(beside))
            yield from (other for other in beside if other not in here)

    def _place(self, oid: ObjectId) -> Place:
        found = next((place for place in self._holdings.places(oid) if place.kind and place.kind.is_metadata), None)
        if found is None:
            raise IntegrityError(
                f"{self._engine.url} lacks object {oid}, which its refs reach", hint="mvc fsck on that side"
            )
        if found.length > MAX_METADATA_BYTES:
            raise IntegrityError(f"{self._engine.url} says that object {oid} has {found.length:,} bytes")
        return found

    def _receive(self, places: Mapping[ObjectId, Place]) -> None:
        """Read objects. Memory is taken for what has arrived, not for what an index promises."""
        parts: dict[ObjectId, list[bytes]] = {oid: [] for oid in places}
        targets: dict[int, ObjectId] = {}
        starts: list[int] = []
        total, wants = 0, []
        for oid, place in places.items():
            targets[total] = oid
            starts.append(total)
            wants.append(Want(place.key, place.offset, place.length, total))
            total += max(1, place.length)
        ranges = plan_ranges(wants)
        with ThreadPoolExecutor(self._engine.capabilities.connections) as pool:
            answers = pool.map(lambda item: self._engine.read(item.key, item.offset, item.length), ranges)
            for item, data in zip(ranges, answers, strict=True):
                for piece in item.pieces:
                    oid = targets[starts[bisect_right(starts, piece.target) - 1]]
                    parts[oid].append(data[piece.start : piece.start + piece.length])
        self._read |= {oid: b"".join(found) for oid, found in parts.items()}
