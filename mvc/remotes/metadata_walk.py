"""Following commits of a remote to what this repository has: a request for each pack, not for each commit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
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

__all__ = ["MetadataWalk"]

_KEPT_BYTES: Final = 256 << 20
"""Bytes of metadata that were read along with others and may yet be wanted: the commits of 100,000 epochs."""


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

    Attributes
    ----------
    commits : dict of ObjectId to Commit
        New ones, in the order in which they were found: children mostly first.
    manifests : dict of ObjectId to Manifest
        Of these, oldest first once `follow` has returned.
    boundary : set of ObjectId
        Parents of these that are here.
    """

    def __init__(
        self, engine: Engine, holdings: Holdings, whole: Callable[[Iterable[ObjectId]], Collection[ObjectId]]
    ) -> None:
        self._engine = engine
        self._holdings = holdings
        self._whole = whole
        self._read: dict[ObjectId, bytes] = {}
        self._used: dict[ObjectId, tuple[EntryKind, bytes]] = {}
        self.commits: dict[ObjectId, Commit] = {}
        self.manifests: dict[ObjectId, Manifest] = {}
        self.boundary: set[ObjectId] = set()

    def follow(self, tips: Iterable[ObjectId]) -> None:
        """Read all that `tips`, commits and tag objects, reach and that is not here.

        Raises
        ------
        IntegrityError
            If something is missing from the remote, or is not what its id promises.
        """
        pending = set(tips)
        while pending:
            self._fetch(pending)
            below: set[ObjectId] = set()
            for oid in sorted(pending):
                below |= self._visit(oid)
            below -= self.commits.keys() | self.boundary
            here = set(self._whole(below))
            self.boundary |= here
            pending = below - here
        self._read_manifests()

    def bodies(self) -> Iterator[tuple[EntryKind, ObjectId, bytes]]:
        """Yield what is to be stored: manifests, then commits, then tags."""
        for wanted in (EntryKind.MANIFEST, EntryKind.COMMIT, EntryKind.TAG):
            for oid, (kind, body) in self._used.items():
                if kind is wanted:
                    yield kind, oid, body

    def _visit(self, oid: ObjectId) -> set[ObjectId]:
        """Take note of a commit or a tag; return the commits that it names."""
        found = self._decoded(oid, (EntryKind.COMMIT, EntryKind.TAG))
        if isinstance(found, Tag):
            return {found.target}
        assert isinstance(found, Commit)
        self.commits[oid] = found
        return set(found.parents)

    def _read_manifests(self) -> None:
        ordered = sorted(self.commits.values(), key=lambda commit: commit.time)
        wanted = [oid for oid in dict.fromkeys(commit.manifest for commit in ordered) if oid not in self.manifests]
        self._fetch(wanted)
        for oid in wanted:
            found = self._decoded(oid, (EntryKind.MANIFEST,))
            assert isinstance(found, Manifest)
            self.manifests[oid] = found

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

    def _fetch(self, wanted: Iterable[ObjectId]) -> None:
        """Read what is wanted, and what lies in the same packs as far as it may be wanted later."""
        missing = [oid for oid in wanted if oid not in self._read]
        places = {oid: self._place(oid) for oid in missing}
        room = _KEPT_BYTES - sum(len(body) for body in self._read.values())
        for other in chain.from_iterable(map(self._holdings.neighbours, missing)):
            if other not in places and other not in self._read and other not in self._used:
                place = self._place(other)
                room -= place.length
                if room < 0:
                    break
                places[other] = place
        self._read |= self._received(places)

    def _place(self, oid: ObjectId) -> Place:
        found = next((place for place in self._holdings.places(oid) if place.kind and place.kind.is_metadata), None)
        if found is None:
            raise IntegrityError(
                f"{self._engine.url} lacks object {oid}, which its refs reach", hint="mvc fsck on that side"
            )
        if found.length > MAX_METADATA_BYTES:
            raise IntegrityError(f"{self._engine.url} says that object {oid} has {found.length:,} bytes")
        return found

    def _received(self, places: dict[ObjectId, Place]) -> dict[ObjectId, bytes]:
        offsets: dict[ObjectId, int] = {}
        total, wants = 0, []
        for oid, place in places.items():
            offsets[oid] = total
            wants.append(Want(place.key, place.offset, place.length, total))
            total += place.length
        buffer = bytearray(total)
        with ThreadPoolExecutor(self._engine.capabilities.connections) as pool:
            ranges = plan_ranges(wants)
            answers = pool.map(lambda item: self._engine.read(item.key, item.offset, item.length), ranges)
            for item, data in zip(ranges, answers, strict=True):
                for piece in item.pieces:
                    buffer[piece.target : piece.target + piece.length] = data[piece.start : piece.start + piece.length]
        return {oid: bytes(buffer[offset : offset + places[oid].length]) for oid, offset in offsets.items()}
