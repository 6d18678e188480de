"""What the refs need: every commit, tag, manifest and content that they reach, and which files hang on which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mvc.objects.commit import Commit, Tag
from mvc.objects.manifest import Manifest, ManifestDecoder, SegmentKind
from mvc.objects.operation import Refs
from mvc.objects.refnames import HEAD
from mvc.repo.check_copies import WRONG, Copies, Copy, read_copy
from mvc.repo.refs import RefState
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId, object_id

__all__ = ["History", "Use", "check_history", "uses"]


Find = Callable[[ObjectId], Copy | None]
"""Returns a good copy of a metadata object, if there is one."""


@dataclass(frozen=True, slots=True)
class Use:
    """A file of a commit that needs a content.

    Parameters
    ----------
    commit : ObjectId
        The commit.
    path : str
        The file.
    tensors : tuple of str
        Names of the tensors in it that are that content; none for a literal.
    """

    commit: ObjectId
    path: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """What the refs reach.

    Parameters
    ----------
    commits : mapping of ObjectId to Commit
        Those that can be read.
    tags : frozenset of ObjectId
        Tags that can be read.
    metadata : frozenset of ObjectId
        Commits, tags and manifests, readable or not.
    unreadable : mapping of ObjectId to tuple of str
        Those that cannot be read as what they are needed for, and the refs and commits that need them.
    contents : mapping of (SegmentKind, ObjectId) to int
        Bytes of each content that a manifest names.
    sizes : mapping of ObjectId to int
        Bytes of all files of each manifest that can be read.
    disputed : frozenset of ObjectId
        Contents that two manifests give different lengths: one of them is wrong, whichever `contents` has.
    strange : frozenset of ObjectId
        Commits that say of tensors with a loss what is not among theirs.
    """

    commits: Mapping[ObjectId, Commit]
    tags: frozenset[ObjectId]
    metadata: frozenset[ObjectId]
    unreadable: Mapping[ObjectId, tuple[str, ...]]
    contents: Mapping[tuple[SegmentKind, ObjectId], int]
    sizes: Mapping[ObjectId, int]
    disputed: frozenset[ObjectId] = frozenset()
    strange: frozenset[ObjectId] = frozenset()


def check_history(store: ObjectStore, find: Find, refs: Refs, known: Container[ObjectId] = frozenset()) -> History:
    """Follow `refs` as far as objects can be read.

    Parameters
    ----------
    store : ObjectStore
        Where copies are read.
    find : callable
        Returns a good copy of a metadata object, or None.
    refs : Refs
        Where to begin.
    known : container of ObjectId
        Commits and tags where to end: neither they nor what they need is looked at.
    """
    walk = _Walk(store, find, known)
    pending = [(origin, oid) for origin, oid in _targets(refs)]
    while pending:
        pending += walk.visit(*pending.pop())
    for oid, commit in walk.commits.items():
        walk.read_manifest(oid, commit.manifest)
    unreadable = {oid: walk.origins(oid) for oid in sorted(walk.unreadable)}
    metadata, tags = frozenset({*walk.heads, *walk.manifests}), frozenset(walk.tags)
    disputed = frozenset(walk.disputed)
    strange = frozenset(oid for oid, commit in walk.commits.items() if not walk.has_what_it_derives(commit))
    return History(walk.commits, tags, metadata, unreadable, walk.contents, walk.sizes, disputed, strange)


def _targets(refs: Refs) -> list[tuple[str, ObjectId]]:
    """Return where each ref leads; HEAD to a commit, whatever branch it follows."""
    head = RefState(ObjectId(""), 0, refs).head
    found = [(name, object_id(value)) for name, value in refs.items() if name != HEAD]
    return found + ([(HEAD, head)] if head else [])


@dataclass
class _Walk:
    store: ObjectStore
    find: Find
    known: Container[ObjectId]
    commits: dict[ObjectId, Commit] = field(default_factory=dict)
    tags: set[ObjectId] = field(default_factory=set)
    heads: dict[ObjectId, list[str]] = field(default_factory=dict)
    manifests: dict[ObjectId, list[str]] = field(default_factory=dict)
    unreadable: set[ObjectId] = field(default_factory=set)
    contents: dict[tuple[SegmentKind, ObjectId], int] = field(default_factory=dict)
    sizes: dict[ObjectId, int] = field(default_factory=dict)
    disputed: set[ObjectId] = field(default_factory=set)
    decoder: ManifestDecoder = field(default_factory=ManifestDecoder)

    def visit(self, origin: str, oid: ObjectId) -> list[tuple[str, ObjectId]]:
        """Read a commit or tag, once; return what it needs."""
        if oid in self.known:
            return []
        self.heads.setdefault(oid, []).append(origin)
        if len(self.heads[oid]) > 1:
            return []
        found = self._read(oid)
        if isinstance(found, Commit):
            self.commits[oid] = found
            return [(f"commit {oid}", parent) for parent in found.parents]
        if isinstance(found, Tag):
            self.tags.add(oid)
            return [(f"tag {oid}", found.target)]
        self.unreadable.add(oid)
        return []

    def origins(self, oid: ObjectId) -> tuple[str, ...]:
        """Return what needs an object that cannot be read as what it is needed for."""
        as_manifest = () if isinstance(self._read(oid), Manifest) else self.manifests.get(oid, ())
        as_commit = () if oid in self.commits else self.heads.get(oid, ())
        return tuple(dict.fromkeys((*as_commit, *as_manifest)))

    def read_manifest(self, commit: ObjectId, oid: ObjectId) -> None:
        """Read a manifest, once, and note the contents that it names."""
        self.manifests.setdefault(oid, []).append(f"commit {commit}")
        if len(self.manifests[oid]) > 1:
            return
        found = self._read(oid)
        if isinstance(found, Manifest):
            for key, length in found.segments().items():
                if self.contents.setdefault(key, length) != length:
                    self.disputed.add(key[1])
            self.sizes[oid] = found.size
        else:
            self.unreadable.add(oid)

    def has_what_it_derives(self, commit: Commit) -> bool:
        """Return whether the manifest of a commit, if it can be read, names all that the commit says of tensors."""
        if commit.derivation is None or not isinstance(manifest := self._read(commit.manifest), Manifest):
            return True
        return {item.id for item in commit.derivation.tensors} <= {entry.id for entry in manifest.tensors}

    def _read(self, oid: ObjectId) -> Commit | Tag | Manifest | None:
        return _read(self.store, self.find(oid), self.decoder)


def _read(store: ObjectStore, copy: Copy | None, manifests: ManifestDecoder) -> Commit | Tag | Manifest | None:
    """Return a metadata object, or None if it cannot be read."""
    try:
        return read_copy(store, copy, manifests) if copy is not None and copy.is_metadata else None
    except WRONG:  # its bytes are those of its id, and break a rule
        return None


def uses(
    store: ObjectStore, copies: Copies, commits: Mapping[ObjectId, Commit], ids: Collection[ObjectId]
) -> dict[ObjectId, list[Use]]:
    """Return which files of which commits need each of the contents `ids`, commits in their order."""
    result: dict[ObjectId, list[Use]] = {}
    manifests = ManifestDecoder()
    for oid, commit in commits.items() if ids else ():
        found = _read(store, copies.good.get(commit.manifest), manifests)
        for content, use in _uses(oid, found, ids) if isinstance(found, Manifest) else ():
            result.setdefault(content, []).append(use)
    return result


def _uses(commit: ObjectId, manifest: Manifest, ids: Collection[ObjectId]) -> Iterable[tuple[ObjectId, Use]]:
    names: dict[tuple[int, ObjectId], list[str]] = {}
    for entry in manifest.tensors:
        if entry.id in ids:
            names.setdefault((entry.file, entry.id), []).append(entry.name)
    for place, file in enumerate(manifest.files):
        for content in _distinct(segment.id for segment in file.segments):
            if content in ids:
                yield content, Use(commit, file.path, tuple(names.get((place, content), ())))


def _distinct(ids: Iterable[ObjectId]) -> Iterator[ObjectId]:
    return iter(dict.fromkeys(ids))
