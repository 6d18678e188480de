"""Everything that roots reach: commits, tags, manifests, and the contents that these name."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mvc.errors import FormatError, IntegrityError, NotFoundError
from mvc.index import read_metadata
from mvc.objects.commit import Commit, Tag
from mvc.objects.ids import COMMIT, MANIFEST, TAG, digest
from mvc.objects.manifest import Manifest, ManifestDecoder, Segment
from mvc.repo.refs import Thinned
from mvc.repo.roots import Root
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

__all__ = ["Liveness"]


class Liveness:
    """A walk over history that can be continued with more roots.

    Parameters
    ----------
    store : ObjectStore
        What is read; no index is believed.
    absent : collection of ObjectId
        Commits that are absent by design.

    Attributes
    ----------
    metadata, contents : dict of ObjectId to Root
        What was reached, and the first root from which it was.
    segments : dict of ObjectId to Segment
        What the first manifest that names a content says of it.
    disputed : set of ObjectId
        Contents of which another manifest says something else: one of them is wrong.
    """

    def __init__(self, store: ObjectStore, absent: Collection[ObjectId] = frozenset()) -> None:
        self._store = store
        self._absent = absent
        self._manifests = ManifestDecoder()
        self.metadata: dict[ObjectId, Root] = {}
        self.contents: dict[ObjectId, Root] = {}
        self.segments: dict[ObjectId, Segment] = {}
        self.disputed: set[ObjectId] = set()
        self._lost: set[ObjectId] = set()
        self._noted: set[ObjectId] = set()
        self._thinned: Thinned = {}
        self._emptied: dict[ObjectId, ObjectId] = {}

    def reach(self, roots: Iterable[Root], thinned: Thinned) -> None:
        """Add all that `roots` reach.

        A commit that is `thinned` reaches what stands in for it in place of its contents. What was thinned in an
        earlier call, and is not any more, reaches its contents again.

        Raises
        ------
        IntegrityError
            If a commit, tag or manifest that a ref reaches is missing or corrupt.
        """
        self._thinned = thinned
        for root in roots:
            self._walk(root.id, root)
            if root.entire:
                self._fill(root.id, root)
        for oid in [oid for oid in self._emptied if oid not in thinned]:
            self._fill(oid, self.metadata[oid])
        for oid, stand_in in thinned.items():
            if stand_in is not None and oid in self.metadata:
                self._walk(stand_in, self.metadata[oid])

    def _walk(self, start: ObjectId, root: Root) -> None:
        pending = [start]
        while pending:
            oid = pending.pop()
            if oid not in self.metadata and (root.is_ref or oid not in self._lost):
                pending += self._visit(oid, root)

    def _fill(self, commit: ObjectId, root: Root) -> None:
        """Take note of the contents of a commit that was passed over because it is thinned."""
        if commit in self._emptied:
            self._note_contents(self._emptied.pop(commit), root)

    def _visit(self, oid: ObjectId, root: Root) -> Iterable[ObjectId]:
        """Take note of a commit or tag; return what must be walked to from there."""
        try:
            named = self._named_by(oid, self._read(oid), root)
        except (IntegrityError, NotFoundError, FormatError) as error:
            if not root.is_ref:
                self._lost.add(oid)  # to look again would give condemned files their names back
                return ()  # it was removed when nothing held it; or it is corrupt, and nothing needs it any more
            raise IntegrityError(
                f"{oid}, which {root.name} needs, cannot be read: {error.message}", hint="mvc fsck --repair"
            ) from error
        self.metadata[oid] = root
        return named

    def _read(self, oid: ObjectId) -> Commit | Tag:
        data = self._store.load_metadata(oid)
        if digest(COMMIT, data) == oid:
            return Commit.decode(data)
        if digest(TAG, data) == oid:
            return Tag.decode(data)
        raise IntegrityError(f"{oid} is neither a commit nor a tag", hint="mvc fsck --repair")

    def _named_by(self, oid: ObjectId, found: Commit | Tag, root: Root) -> Iterable[ObjectId]:
        """Take note of what a commit records; return the commits that it names, and what stands in for it."""
        if isinstance(found, Tag):
            return [found.target]
        if oid in self._thinned:
            self._manifest(found.manifest)
            self.metadata.setdefault(found.manifest, root)
            self._emptied[oid] = found.manifest
        else:
            self._note_contents(found.manifest, root)
        parents = [parent for parent in found.parents if parent not in self._absent]
        stand_in = self._thinned.get(oid)
        return parents if stand_in is None else [*parents, stand_in]

    def _manifest(self, oid: ObjectId) -> Manifest:
        return self._manifests.decode(read_metadata(self._store, oid, MANIFEST))

    def _note_contents(self, oid: ObjectId, root: Root) -> None:
        """Take note of what a manifest names, once."""
        if oid in self._noted:
            return
        manifest = self._manifest(oid)
        self._noted.add(oid)
        self.metadata.setdefault(oid, root)
        for segment in (segment for file in manifest.files for segment in file.segments):
            self.contents.setdefault(segment.id, root)
            first = self.segments.setdefault(segment.id, segment)
            if first is not segment and (first.kind, first.length) != (segment.kind, segment.length):
                self.disputed.add(segment.id)
