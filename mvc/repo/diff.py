"""``mvc diff``: which files and tensors differ between two commits, or a commit and the work tree, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Literal

from mvc.codecs import Bytes, frame_words
from mvc.objects.manifest import Manifest, TensorEntry
from mvc.repo.checkout import session_status
from mvc.repo.compare import TensorDistance, distance
from mvc.repo.materialize import ContentReader
from mvc.repo.scan import Content, scan
from mvc.repo.session import Session
from mvc.repo.structures import structures_of
from mvc.repo.tree import assemble, from_worktree
from mvc.runtime.structure import Structure
from mvc.types import ObjectId

__all__ = ["Difference", "Side", "TensorDifference", "commit_side", "diff", "worktree_side"]

Change = Literal["added", "removed", "changed", "reshaped"]


@dataclass(frozen=True)
class Side:
    """One of the two things compared.

    Parameters
    ----------
    name : str
        What it is, for display.
    manifest : Manifest
        Its content.
    contents : mapping of ObjectId to Content
        Where to read what is not stored: files of the work tree.
    commit : ObjectId or None
        Of which stored contents are read.
    """

    name: str
    manifest: Manifest
    contents: Mapping[ObjectId, Content] = field(default_factory=dict)
    commit: ObjectId | None = None


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """A tensor that is not the same on both sides.

    Parameters
    ----------
    name, path : str
        Tensor and file.
    change : Change
        ``changed`` if dtype and shape agree, ``reshaped`` if not.
    old, new : TensorEntry or None
        What it is on either side.
    distance : TensorDistance or None
        How far apart, if that was asked for and has a meaning.
    """

    name: str
    path: str
    change: Change
    old: TensorEntry | None
    new: TensorEntry | None
    distance: TensorDistance | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs.

    Parameters
    ----------
    old, new : str
        Names of the sides.
    added, removed, modified : tuple of str
        Paths of files.
    tensors : tuple of TensorDifference
        In the order of the files.
    structures : pair of mappings of str to Structure
        By directories of models, what they have kept of their heads and neurons, on either side, where that may differ:
        where tensors are not of the same names and shapes.
    """

    old: str
    new: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    modified: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    structures: tuple[Mapping[str, Structure], Mapping[str, Structure]] = ({}, {})

    @property
    def empty(self) -> bool:
        """True if both sides are the same tree."""
        return not (self.added or self.removed or self.modified)


def commit_side(session: Session, name: str, commit: ObjectId) -> Side:
    """Return a commit as one side of a comparison."""
    return Side(name, session.manifest(commit), commit=commit)


def worktree_side(session: Session, pool: Executor) -> Side:
    """Return the work tree as one side; only files that changed since HEAD are read."""
    found = session_status(session)
    head = session.manifest(found.refs.head) if found.refs.head else None
    paths = [*found.added, *found.modified]
    sources = from_worktree(session.layout.tree, paths, opaque=True).sources if paths else ()
    scanned = scan(sources, pool)
    manifest = assemble(head, [*paths, *found.deleted], scanned)
    return Side("work tree", manifest, {item.id: item for file in scanned for item in file.contents}, found.refs.head)


def diff(session: Session, old: Side, new: Side, pool: Executor, *, tensors: bool = False) -> Difference:
    """Compare two sides.

    Parameters
    ----------
    session : Session
        The repository.
    old, new : Side
        What to compare.
    pool : Executor
        Threads that decode.
    tensors : bool
        Measure how far each changed tensor moved; otherwise only ids are compared.

    Raises
    ------
    ThinnedError
        If tensors of a commit that is thinned are to be measured.
    """
    before, after = old.manifest.by_path, new.manifest.by_path
    found = _changed_tensors(old.manifest, new.manifest)
    if tensors:
        with session.protected("diff", old.commit, new.commit):
            _supply(session, found, old, new)
            reader = ContentReader(session, pool)
            found = [_measured(item, old, new, reader) for item in found]
    return Difference(
        old.name,
        new.name,
        tuple(path for path in after if path not in before),
        tuple(path for path in before if path not in after),
        tuple(path for path in after if path in before and before[path] != after[path]),
        tuple(found),
        _structures(session, found, old, new),
    )


def _structures(
    session: Session, found: Sequence[TensorDifference], old: Side, new: Side
) -> tuple[Mapping[str, Structure], Mapping[str, Structure]]:
    """Return what models have kept on either side, if they have other tensors; of a work tree nothing is known."""
    if all(item.change == "changed" for item in found) or old.contents or new.contents:
        return {}, {}
    sides = [structures_of(session, side.commit) if side.commit else {} for side in (old, new)]
    return sides[0], sides[1]


def _by_place(manifest: Manifest) -> dict[tuple[str, str], TensorEntry]:
    return {(manifest.files[entry.file].path, entry.name): entry for entry in manifest.tensors}


def _changed_tensors(old: Manifest, new: Manifest) -> list[TensorDifference]:
    before, after = _by_place(old), _by_place(new)
    result = []
    for path, name in sorted(before.keys() | after.keys()):
        a, b = before.get((path, name)), after.get((path, name))
        if a is None or b is None:
            result.append(TensorDifference(name, path, "removed" if b is None else "added", a, b))
        elif (a.id, a.view) != (b.id, b.view) or a.spec != b.spec:
            result.append(TensorDifference(name, path, "changed" if a.spec == b.spec else "reshaped", a, b))
    return result


def _supply(session: Session, found: Sequence[TensorDifference], old: Side, new: Side) -> None:
    """Have what a partial repository lacks of what is to be measured brought here."""
    wanted = {entry.id for item in found if _is_measurable(item) for entry in (item.old, item.new) if entry}
    wanted -= old.contents.keys() | new.contents.keys()
    named = old.manifest.segments() | new.manifest.segments()
    session.supply({(kind, oid): size for (kind, oid), size in named.items() if oid in wanted})


def _is_measurable(item: TensorDifference) -> bool:
    return item.change == "changed" and not any(entry and entry.view for entry in (item.old, item.new))


def _measured(item: TensorDifference, old: Side, new: Side, reader: ContentReader) -> TensorDifference:
    if item.old is None or item.new is None or not _is_measurable(item):
        return item
    pairs = _pairs(item.old, item.new, old, new, reader)
    return TensorDifference(item.name, item.path, item.change, item.old, item.new, distance(item.old.spec.dtype, pairs))


def _pairs(
    a: TensorEntry, b: TensorEntry, old: Side, new: Side, reader: ContentReader
) -> Iterator[tuple[Bytes, Bytes]]:
    step = frame_words(a.spec)
    for start in range(0, a.spec.words, step):
        words = min(step, a.spec.words - start)
        yield _words(a.id, old, reader, start, words), _words(b.id, new, reader, start, words)


def _words(oid: ObjectId, side: Side, reader: ContentReader, start: int, words: int) -> Bytes:
    content = side.contents.get(oid)
    if content is None:
        return reader.words(oid, start, words)
    return content.load(start, words)
