"""What a merge makes of three trees: pure, from manifests alone, so that no tensor is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from mvc.objects.manifest import Manifest, Segment
from mvc.objects.paths import folded
from mvc.repo.scan import NamedTensor, ScannedFile
from mvc.repo.tree import assemble, described
from mvc.types import ObjectId

__all__ = ["MergeConflict", "MergePlan", "MergedFile", "Side", "plan_merge"]

Side = Literal["ours", "theirs"]
"""``ours`` is the tree of HEAD, ``theirs`` the one that is merged into it."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MergeConflict:
    """What both sides changed, each in another way.

    Parameters
    ----------
    path : str
        The file.
    tensor : str or None
        The tensor; None for the file as a whole.
    problem : str
        What happened to it.
    """

    path: str
    tensor: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class MergedFile:
    """A file that is not the same on both sides, and what the merge made of it.

    Parameters
    ----------
    path : str
        Where it is.
    source : {"ours", "theirs", "both"}
        Whose file it is; ``both`` if it is put together of tensors of both.
    removed : bool
        True if that side has no file here.
    ours, theirs, shared : int
        Tensors of the merged file that are as on one side only, and as on both.
    """

    path: str
    source: Literal["ours", "theirs", "both"]
    removed: bool
    ours: int
    theirs: int
    shared: int


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The tree that results.

    Parameters
    ----------
    manifest : Manifest or None
        The tree; None if there are conflicts, and no side was to be favoured.
    files : tuple of MergedFile
        Sorted by path; as if ours were favoured where there is no manifest.
    conflicts : tuple of MergeConflict
        Sorted by path and tensor; resolved if there is a manifest.
    """

    manifest: Manifest | None
    files: tuple[MergedFile, ...]
    conflicts: tuple[MergeConflict, ...]


class _Versions(NamedTuple):
    """A file, on three trees; None where it is not there."""

    base: ScannedFile | None
    ours: ScannedFile | None
    theirs: ScannedFile | None


_Merged: TypeAlias = tuple[ScannedFile | None, list[MergeConflict]]


def plan_merge(base: Manifest, ours: Manifest, theirs: Manifest, favour: Side | None = None) -> MergePlan:
    """Merge two trees that come from a third.

    What one side added, removed or changed is taken from it, and what both did alike is done. Of a file that both
    changed the same is done tensor by tensor, if all three versions are of one format, with the same literal bytes and
    tensors of the same names, dtypes and shapes in the same places. The rest conflicts.

    Parameters
    ----------
    base : Manifest
        The tree where they parted.
    ours, theirs : Manifest
        What became of it.
    favour : {"ours", "theirs"}, optional
        The side to take where they conflict.
    """
    trees = [described(tree) for tree in (base, ours, theirs)]
    files = {path: _Versions(*(tree.get(path) for tree in trees)) for path in sorted(set().union(*trees))}
    merged: dict[str, ScannedFile | None] = {}
    conflicts: list[MergeConflict] = []
    for path, versions in files.items():
        merged[path], found = _merge_file(path, versions, favour)
        conflicts += found
    for conflict in _collisions(merged, files, favour):
        merged[conflict.path] = None
        conflicts.append(conflict)
    report = tuple(_report(path, merged[path], files[path]) for path in files if files[path].ours != files[path].theirs)
    ordered = tuple(sorted(conflicts, key=lambda item: (item.path, item.tensor or "")))
    if ordered and not favour:
        return MergePlan(None, report, ordered)
    return MergePlan(assemble(None, (), [file for file in merged.values() if file]), report, ordered)


def _pick(base: T, ours: T, theirs: T, favour: Side | None) -> tuple[T, bool]:
    """Return the merged value, and whether both sides changed it, each in another way."""
    if theirs in (base, ours):
        return ours, False
    if ours == base:
        return theirs, False
    return (theirs if favour == "theirs" else ours), True


def _merge_file(path: str, versions: _Versions, favour: Side | None) -> _Merged:
    """Return the merged file, None if it is removed, and what conflicts in it."""
    file, conflicting = _pick(*versions, favour)
    if not conflicting:
        return file, []
    base, ours, theirs = versions
    if ours is None or theirs is None:
        gone, kept = ("ours", "theirs") if ours is None else ("theirs", "ours")
        return file, [MergeConflict(path, None, f"removed on side {gone}, changed on side {kept}")]
    mode, modes_conflict = _pick(base.mode if base else None, ours.mode, theirs.mode, favour)
    assert mode is not None, "one of the sides has it"
    merged, conflicts = _merge_content(path, base, ours, theirs, favour)
    if modes_conflict and not conflicts:  # only where there is no base: there are but two modes
        conflicts = [MergeConflict(path, None, "added with different modes")]
    return replace(merged, mode=mode), conflicts


def _content(file: ScannedFile | None) -> tuple[str, tuple[Segment, ...], tuple[NamedTensor, ...]] | None:
    return (file.format, file.segments, file.tensors) if file else None


def _merge_content(
    path: str, base: ScannedFile | None, ours: ScannedFile, theirs: ScannedFile, favour: Side | None
) -> tuple[ScannedFile, list[MergeConflict]]:
    """Return a file with the merged content, and what conflicts in it."""
    content, conflicting = _pick(_content(base), _content(ours), _content(theirs), favour)
    file = ours if content == _content(ours) else theirs
    if not conflicting:
        return file, []
    if base is None:
        return file, [MergeConflict(path, None, f"added on both sides{_shapes(ours, theirs)}")]
    if not _same_layout(base, ours, theirs):
        return file, [MergeConflict(path, None, f"changed on both sides{_shapes(ours, theirs)}")]
    return _merge_tensors(base, ours, theirs, favour)


def _shapes(ours: ScannedFile, theirs: ScannedFile) -> str:
    """Return what to add of tensors that have other shapes: nothing is mapped from one onto the other."""
    known = {tensor.name: tensor.spec.shape for tensor in ours.tensors}
    if any(known.get(tensor.name, tensor.spec.shape) != tensor.spec.shape for tensor in theirs.tensors):
        return ", with tensors of other shapes: no part of one is taken into the other"
    return ""


_Ids: TypeAlias = tuple[ObjectId, ObjectId, ObjectId]
"""What stands in one place of a file: in the base, in ours, in theirs."""


def _places(base: ScannedFile, ours: ScannedFile, theirs: ScannedFile) -> list[_Ids]:
    triples = zip(base.segments, ours.segments, theirs.segments, strict=True)
    return [(a.id, b.id, c.id) for a, b, c in triples]


def _names(base: ScannedFile, ours: ScannedFile, theirs: ScannedFile) -> list[tuple[NamedTensor, _Ids]]:
    triples = zip(base.tensors, ours.tensors, theirs.tensors, strict=True)
    return [(a, (a.id, b.id, c.id)) for a, b, c in triples]


def _same_layout(base: ScannedFile, ours: ScannedFile, theirs: ScannedFile) -> bool:
    """Return True if three files differ in nothing but the values of tensors.

    A name stands for the places that hold its tensor in all three. Where there are several, they hold the same in each,
    so that it does not matter which one is meant.
    """
    if not _outline(base) == _outline(ours) == _outline(theirs):
        return False
    places = set(_places(base, ours, theirs))
    return all(ids in places for tensor, ids in _names(base, ours, theirs) if tensor.spec.nbytes)


def _outline(file: ScannedFile) -> tuple[object, ...]:
    """Return everything of a file but the values of its tensors."""
    segments = [(item.kind, item.length, item.id if item.kind == "literal" else "") for item in file.segments]
    return file.format, segments, [(item.name, item.spec, item.view) for item in file.tensors]


def _merge_tensors(
    base: ScannedFile, ours: ScannedFile, theirs: ScannedFile, favour: Side | None
) -> tuple[ScannedFile, list[MergeConflict]]:
    """Return three files of the same layout as one, and the tensors that conflict."""
    places, names = _places(base, ours, theirs), _names(base, ours, theirs)
    picked = {ids: _pick(*ids, favour) for ids in {*places, *(ids for _, ids in names)}}
    named = {ids for _, ids in names}
    labels = [(tensor.name, ids) for tensor, ids in names]
    labels += [(f"segment {place}", ids) for place, ids in enumerate(places) if ids not in named]
    segments = (
        Segment(item.kind, picked[ids][0], item.length) for item, ids in zip(base.segments, places, strict=True)
    )
    tensors = (NamedTensor(tensor.name, picked[ids][0], tensor.spec, tensor.view) for tensor, ids in names)
    problem = "changed on both sides"
    conflicts = [MergeConflict(base.path, label, problem) for label, ids in labels if picked[ids][1]]
    return replace(base, segments=tuple(segments), tensors=tuple(tensors)), conflicts


def _collisions(
    merged: Mapping[str, ScannedFile | None], files: Mapping[str, _Versions], favour: Side | None
) -> list[MergeConflict]:
    """Return the paths that have to go because a path of the favoured side (default: ours) cannot stand beside them."""
    other: Side = "ours" if favour == "theirs" else "theirs"
    found = {}
    for pair in _clashes(path for path, file in merged.items() if file):
        # each side is a tree, so one of a pair is on this side only, and the other on the other
        stays = [path for path in pair if (files[path].theirs if favour == "theirs" else files[path].ours)]
        for path in set(pair) - set(stays):
            found[path] = MergeConflict(path, None, f"on side {other}, cannot stand beside {stays[0]}")
    return [*found.values()]


def _clashes(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of paths of which one is a directory of the other, or the same, on some file systems."""
    by_key: dict[str, list[str]] = {}
    for path in paths:
        by_key.setdefault(folded(path), []).append(path)
    same = [(group[0], other) for group in by_key.values() for other in group[1:]]
    above = [
        (directory, path)
        for key, group in by_key.items()
        for end, character in enumerate(key)
        if character == "/"
        for directory in by_key.get(key[:end], ())
        for path in group
    ]
    return same + above


def _report(path: str, merged: ScannedFile | None, versions: _Versions) -> MergedFile:
    """Return what became of a file that is not the same on both sides."""
    _, ours, theirs = versions
    source: Literal["ours", "theirs", "both"] = "ours" if merged == ours else "theirs" if merged == theirs else "both"
    counts = {"ours": 0, "theirs": 0, "both": 0}
    known = [{item.name: item for item in file.tensors} if file else {} for file in (ours, theirs)]
    for tensor in merged.tensors if merged else ():
        in_ours, in_theirs = (side.get(tensor.name) == tensor for side in known)
        counts["both" if in_ours and in_theirs else "ours" if in_ours else "theirs"] += 1
    return MergedFile(path, source, merged is None, counts["ours"], counts["theirs"], counts["both"])
