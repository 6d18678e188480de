"""Bringing what commits of a remote name, some manifests at a time: memory does not grow with the length of history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mvc.index import Additions, BlobRecord
from mvc.objects.manifest import Manifest
from mvc.remotes.download import download
from mvc.remotes.engine import Engine
from mvc.remotes.holdings import Holdings
from mvc.remotes.metadata_walk import ManifestBatch
from mvc.remotes.negotiation import check_same, contents_of, neighbours, new_contents
from mvc.remotes.ranges import GAP_BYTES, SPARSE_GAP_BYTES
from mvc.repo.partial import Contents, split_contents
from mvc.repo.progress import Progress
from mvc.repo.reliance import rely_on
from mvc.repo.session import Session
from mvc.store.layout import EntryKind, Location
from mvc.types import ObjectId

__all__ = ["Bringing"]


@dataclass
class Bringing:
    """Manifests and contents on their way here.

    Parameters
    ----------
    session : Session
        The repository.
    engine : Engine
        The remote.
    holdings : Holdings
        What it holds.
    patterns : sequence of str or None
        Names of tensors that come, as `parse_filter` returns them, since the remote promises the rest; None: all.
    progress : callable
        Told how far the work is.

    Attributes
    ----------
    received_bytes, contents : int
        Stored bytes that have arrived, and contents.
    promised : int
        Contents that were left out.
    sizes : dict of ObjectId to int
        Bytes of the files of each manifest.
    """

    session: Session
    engine: Engine
    holdings: Holdings
    patterns: Sequence[str] | None
    progress: Progress
    received_bytes: int = 0
    contents: int = 0
    promised: int = 0
    sizes: dict[ObjectId, int] = field(default_factory=dict)

    def run(self, batches: Iterable[ManifestBatch], boundary: Iterable[Manifest]) -> None:
        """Bring what manifests, oldest first, name and those of `boundary` do not, and then the manifests.

        Raises
        ------
        IntegrityError
            If manifests disagree on the kind or size of a content, or the remote sends what it should not.
        """
        known = contents_of(boundary)
        before: Contents = {}
        for batch in batches:
            manifests = [manifest for manifest, _ in batch.values()]
            blobs = self._bring(new_contents(manifests, {**known, **before}), manifests)
            self.session.follow_objects(Additions(blobs, self._store(batch)))
            before = contents_of(manifests[-1:])

    def _bring(self, named: Contents, manifests: Sequence[Manifest]) -> Sequence[BlobRecord]:
        gap = GAP_BYTES
        if self.patterns is not None:
            named, left = split_contents(named, manifests, self.patterns)
            self.promised += left
            gap = SPARSE_GAP_BYTES if left else GAP_BYTES
        missing = neighbours(self._missing(named), manifests)
        with self.session.pool() as pool:
            received = download(self.session, self.engine, self.holdings, missing, pool, self.progress, gap)
        self.received_bytes += received.stored_bytes
        self.contents += len(received.records)
        return received.records

    def _missing(self, wanted: Contents) -> Contents:
        """Return what must be received; what is stored already is protected from garbage collection."""
        there = self.session.chains(wanted)
        for oid in wanted.keys() & there.keys():
            check_same(oid, (there[oid].kind, there[oid].raw_bytes), wanted[oid])
        with self.session.store.begin() as batch:
            missing = {oid: what for oid, what in wanted.items() if oid not in there or not rely_on(oid, there, batch)}
            batch.commit()
        return missing

    def _store(self, manifests: Mapping[ObjectId, tuple[Manifest, bytes]]) -> list[tuple[ObjectId, str, Location]]:
        """Store manifests; return where they are."""
        with self.session.store.begin() as batch:
            for oid, (manifest, body) in manifests.items():
                self.sizes[oid] = manifest.size
                batch.put(EntryKind.MANIFEST, oid, body)
            places = batch.commit()
            self.received_bytes += batch.stored_bytes
        return [(oid, "manifest", places[oid]) for oid in manifests]
