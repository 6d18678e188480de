"""What the refs need: every commit, tag, manifest and content that they reach, and which files hang on which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mvc.objects.commit import Commit, Tag
from mvc.objects.manifest import Manifest, ManifestDecoder, SegmentKind
from mvc.objects.operation import Refs
from mvc.objects.refnames import BRANCHES, HEAD, TAGS
from mvc.repo.check_copies import WRONG, Copies, Copy, read_copy
from mvc.repo.refs import RefState, Thinned, thinned_in
from mvc.store.object_store import ObjectStore
from mvc.types import ObjectId

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
    thinned : frozenset of ObjectId
        Those of the commits whose contents may be absent: `contents` has them only where another commit names them.
    exposed : mapping of ObjectId to str
        Thinned commits that a branch or a tag names, which none may.
    """

    commits: Mapping[ObjectId, Commit]
    tags: frozenset[ObjectId]
    metadata: frozenset[ObjectId]
    unreadable: Mapping[ObjectId, tuple[str, ...]]
    contents: Mapping[tuple[SegmentKind, ObjectId], int]
    sizes: Mapping[ObjectId, int]
    disputed: frozenset[ObjectId] = frozenset()
    strange: frozenset[ObjectId] = frozenset()
    thinned: frozenset[ObjectId] = frozenset()
    exposed: Mapping[ObjectId, str] = field(default_factory=dict)


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
    thinned = thinned_in(refs)
    walk = _Walk(store, find, known, thinned)
    pending = [(origin, oid) for origin, oid in _targets(refs)]
    while pending:
        pending += walk.visit(*pending.pop())
    for oid, commit in walk.commits.items():
        walk.read_manifest(oid, commit.manifest)
    unreadable = {oid: walk.origins(oid) for oid in sorted(walk.unreadable)}
    metadata, tags = frozenset({*walk.heads, *walk.manifests}), frozenset(walk.tags)
    disputed = frozenset(walk.disputed)
    strange = frozenset(oid for oid, commit in walk.commits.items() if not walk.has_what_it_derives(commit))
    emptied = frozenset(thinned.keys() & walk.commits)
    named = ((name, walk.target(oid)) for name, oid in _targets(refs) if name.startswith((BRANCHES, TAGS)))
    exposed = {oid: name for name, oid in named if oid in emptied}
    return History(
        walk.commits, tags, metadata, unreadable, walk.contents, walk.sizes, disputed, strange, emptied, exposed
    )


def _targets(refs: Refs) -> list[tuple[str, ObjectId]]:
    """Return where each ref leads; HEAD to a commit, whatever branch it follows."""
    state = RefState(ObjectId(""), 0, refs)
    found = [(name, oid) for name, oid in state.naming.items() if name != HEAD]
    return found + ([(HEAD, state.head)] if state.head else [])


@dataclass
class _Walk:
    store: ObjectStore
    find: Find
    known: Container[ObjectId]
    thinned: Thinned
    commits: dict[ObjectId, Commit] = field(default_factory=dict)
    tags: set[ObjectId] = field(default_factory=set)
    heads: dict[ObjectId, list[str]] = field(default_factory=dict)
    manifests: dict[ObjectId, list[str]] = field(default_factory=dict)
    unreadable: set[ObjectId] = field(default_factory=set)
    contents: dict[tuple[SegmentKind, ObjectId], int] = field(default_factory=dict)
    sizes: dict[ObjectId, int] = field(default_factory=dict)
    noted: set[ObjectId] = field(default_factory=set)
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
            stand_in = self.thinned.get(oid)
            below = found.parents if stand_in is None else (*found.parents, stand_in)
            return [(f"commit {oid}", other) for other in below]
        if isinstance(found, Tag):
            self.tags.add(oid)
            return [(f"tag {oid}", found.target)]
        self.unreadable.add(oid)
        return []

    def target(self, oid: ObjectId) -> ObjectId:
        """Return the commit that a tag names; of anything else itself."""
        found = self._read(oid) if oid in self.tags else None
        return found.target if isinstance(found, Tag) else oid

    def origins(self, oid: ObjectId) -> tuple[str, ...]:
        """Return what needs an object that cannot be read as what it is needed for."""
        as_manifest = () if isinstance(self._read(oid), Manifest) else self.manifests.get(oid, ())
        as_commit = () if oid in self.commits else self.heads.get(oid, ())
        return tuple(dict.fromkeys((*as_commit, *as_manifest)))

    def read_manifest(self, commit: ObjectId, oid: ObjectId) -> None:
        """Read a manifest, once, and note the contents that it names, unless they may be absent."""
        self.manifests.setdefault(oid, []).append(f"commit {commit}")
        if oid in self.noted or (oid in self.sizes and commit in self.thinned):
            return
        found = self._read(oid)
        if not isinstance(found, Manifest):
            self.unreadable.add(oid)
            return
        self.sizes[oid] = found.size
        if commit not in self.thinned:
            self.noted.add(oid)
            for key, length in found.segments().items():
                if self.contents.setdefault(key, length) != length:
                    self.disputed.add(key[1])

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
