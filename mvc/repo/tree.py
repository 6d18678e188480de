"""Which files a commit takes from where, and the manifest that results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Final

from mvc.errors import DamagedFileError, InvalidInputError, NotFoundError
from mvc.formats import INDEX_SUFFIXES, shard_names
from mvc.objects.manifest import FileEntry, Manifest
from mvc.objects.paths import check_path, check_paths
from mvc.repo.ignore import FoundFile, find_files, ignore_rules
from mvc.repo.layout import DIRECTORY, find_layout
from mvc.repo.scan import NamedTensor, ScannedFile
from mvc.repo.sources import FileSource, Source
from mvc.repo.status import file_mode
from mvc.repo.worktree import Stamp, WorkTree

__all__ = [
    "Selection",
    "assemble",
    "check_complete",
    "check_matched",
    "covers",
    "described",
    "from_directory",
    "from_worktree",
    "is_shard_index",
    "paths_after",
    "split_unchanged",
    "worktree_source",
]

EVERYTHING: Final = ("",)
"""The prefix that covers every path."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a commit changes in the tree of its parent.

    Parameters
    ----------
    sources : tuple of Source
        Files to record.
    replaces : tuple of str
        Paths whose files, and whose whole directories, the parent's tree loses first; ``("",)`` for all.
    in_worktree : bool
        Whether the sources are the work tree's own files.
    """

    sources: tuple[Source, ...]
    replaces: tuple[str, ...]
    in_worktree: bool


def covers(prefixes: Sequence[str], path: str) -> bool:
    """Return True if `path` is one of `prefixes` or lies below one; the empty prefix covers every path."""
    return any(not prefix or path == prefix or path.startswith(prefix + "/") for prefix in prefixes)


def _source(root: Path, found: FoundFile, prefix: str, *, opaque: bool) -> FileSource:
    found.check_regular()
    path = check_path(prefix + found.path)
    return FileSource(
        root / found.path, path, file_mode(found.status), Stamp.of(found.status), found.status.st_size, opaque
    )


def from_worktree(root: Path, paths: Sequence[str] = (), *, opaque: bool = False) -> Selection:
    """Select the work tree, or of it only `paths`.

    Parameters
    ----------
    root : Path
        Root of the work tree.
    paths : sequence of str
        Files and directories relative to `root`; none means everything.
    opaque : bool
        Keep damaged checkpoint files as literal bytes instead of refusing them.

    Raises
    ------
    InvalidInputError
        At a file that cannot be recorded.
    """
    replaces = tuple(path.strip("/") if path != "." else "" for path in paths) or EVERYTHING
    found = (file for file in find_files(root, ignore_rules(root)) if covers(replaces, file.path))
    sources = tuple(_source(root, file, "", opaque=opaque) for file in sorted(found, key=lambda file: file.path))
    return Selection(sources, replaces, in_worktree=True)


def worktree_source(root: Path, path: str) -> FileSource | None:
    """Return one file of the work tree, damaged or not; None if there is no regular file at `path`."""
    try:
        status = (root / path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _source(root, FoundFile(path, status), "", opaque=True) if S_ISREG(status.st_mode) else None


def _is_inside_repository(directory: Path) -> bool:
    """Return True if a directory belongs to what mvc itself writes."""
    layouts = map(find_layout, (directory, *directory.parents))
    return DIRECTORY in directory.parts or any(layout is not None and layout.bare for layout in layouts)


def from_directory(directory: Path, prefix: str = "", *, opaque: bool = False) -> Selection:
    """Select the content of a directory anywhere as the tree's `prefix`.

    Raises
    ------
    NotFoundError
        If there is no such directory.
    InvalidInputError
        At a file that cannot be recorded.
    """
    prefix = prefix.strip("/")
    if prefix:
        check_path(prefix)
    if _is_inside_repository(directory.resolve()):
        raise InvalidInputError(f"{directory} lies in a repository: that is not for committing")
    if directory.is_file():
        found = [FoundFile(directory.name, directory.stat())]
        directory = directory.parent
    elif directory.is_dir():
        found = sorted(find_files(directory, ignore_rules(directory)), key=lambda file: file.path)
    else:
        raise NotFoundError(f"{directory} is neither a directory nor a file")
    start = prefix + "/" if prefix else ""
    sources = tuple(_source(directory, file, start, opaque=opaque) for file in found)
    return Selection(sources, (prefix,), in_worktree=False)


def check_matched(selection: Selection, parent: Manifest | None) -> None:
    """Check that every path that was asked for is a file or directory, here or in the parent's tree.

    Raises
    ------
    NotFoundError
        With the first path that matches nothing.
    """
    there = [source.path for source in selection.sources] + [file.path for file in (parent.files if parent else ())]
    for prefix in selection.replaces:
        if prefix and not any(covers((prefix,), path) for path in there):
            raise NotFoundError(
                f"{prefix!r} is neither in the work tree nor in HEAD",
                hint="mvc status; if the file is there, .mvcignore names it",
            )


def split_unchanged(
    selection: Selection, tree: WorkTree | None, manifest: Manifest | None
) -> tuple[list[Source], list[ScannedFile]]:
    """Return the sources to read, and the files that need not be read because their stat is that of HEAD's.

    Parameters
    ----------
    selection : Selection
        What to commit.
    tree : WorkTree or None
        The dirty-check cache for HEAD.
    manifest : Manifest or None
        HEAD's.
    """
    if not selection.in_worktree or tree is None or manifest is None:
        return list(selection.sources), []
    known = described(manifest)
    read: list[Source] = []
    unchanged: list[ScannedFile] = []
    for source in selection.sources:
        tracked = tree.files.get(source.path)
        if isinstance(source, FileSource) and tracked and tracked.stamp == source.stamp and source.path in known:
            unchanged.append(replace(known[source.path], mode=source.mode))
        else:
            read.append(source)
    return read, unchanged


def described(manifest: Manifest) -> dict[str, ScannedFile]:
    """Return the files of a manifest by path, as a scan would have found them."""
    names: dict[int, list[NamedTensor]] = {}
    for entry in manifest.tensors:
        names.setdefault(entry.file, []).append(NamedTensor(entry.name, entry.id, entry.spec, entry.view))
    return {
        file.path: ScannedFile(file.path, file.mode, file.format, file.segments, tuple(names.get(place, ())), ())
        for place, file in enumerate(manifest.files)
    }


def assemble(parent: Manifest | None, replaces: Sequence[str], scanned: Iterable[ScannedFile]) -> Manifest:
    """Return the manifest of the parent's tree after the files of `scanned` took the place of `replaces`.

    Raises
    ------
    InvalidInputError
        If the files cannot stand in one tree.
    """
    files = {path: file for path, file in described(parent).items() if not covers(replaces, path)} if parent else {}
    files |= {file.path: file for file in scanned}
    ordered = [files[path] for path in sorted(files, key=str.encode)]
    tensors = [name.entry(place) for place, file in enumerate(ordered) for name in file.tensors]
    return Manifest(
        tuple(FileEntry(file.path, file.mode, file.format, file.segments) for file in ordered),
        tuple(sorted(tensors, key=lambda entry: entry.sort_key)),
    )


def paths_after(parent: Manifest | None, selection: Selection) -> frozenset[str]:
    """Return the paths of the tree that results when the files of `selection` take their places.

    Raises
    ------
    InvalidInputError
        If they cannot stand in one tree.
    """
    kept = [path for path in (parent.by_path if parent else ()) if not covers(selection.replaces, path)]
    paths = frozenset([*kept, *(source.path for source in selection.sources)])
    check_paths(sorted(paths))
    return paths


def check_complete(paths: Collection[str], read_text: Mapping[str, bytes]) -> None:
    """Refuse a half-written sharded checkpoint: its index promises a shard that is not in the tree.

    Parameters
    ----------
    paths : collection of str
        Files of the tree.
    read_text : mapping of str to bytes
        Content of the index files that are committed, by path.

    Raises
    ------
    DamagedFileError
        With the first missing shard.
    """
    for path, text in read_text.items():
        directory = path.rpartition("/")[0]
        for name in sorted(shard_names(text) or ()):
            shard = f"{directory}/{name}" if directory else name
            if shard not in paths:
                raise DamagedFileError(
                    f"{path} promises the shard {name}, which is not there",
                    hint="wait until the trainer has finished writing, or pass --allow-damaged",
                )


def is_shard_index(path: str) -> bool:
    """Return True if the file at `path` lists the shards of a checkpoint."""
    return path.endswith(INDEX_SUFFIXES)
