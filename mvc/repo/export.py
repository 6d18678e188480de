"""Write files of a commit into a directory, each complete or not at all, and never outside of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISLNK

from mvc.codecs import Bytes
from mvc.errors import IntegrityError, InvalidInputError, MvcError
from mvc.objects.manifest import FileEntry
from mvc.repo.materialize import ContentReader
from mvc.repo.progress import Progress, Tick, silent
from mvc.repo.session import Session
from mvc.repo.worktree import Stamp, Tracked
from mvc.store.fs import FileSystem, Placer

__all__ = ["export", "remove_files", "supply_files", "write_pieces"]


def export(
    session: Session, files: Sequence[FileEntry], root: Path, pool: Executor, progress: Progress = silent
) -> dict[str, Tracked]:
    """Write `files` below `root` and return how to notice that one changes.

    Each file is written beside its place, flushed, and renamed over what stands there. Directories are made as needed.

    Parameters
    ----------
    session : Session
        The repository.
    files : sequence of FileEntry
        What to write.
    root : Path
        An existing directory.
    pool : Executor
        Threads that decode.
    progress : callable
        Told how far the work is.

    Raises
    ------
    InvalidInputError
        If a directory on the way is a symbolic link or a file, or a directory stands where a file must go.
    IntegrityError
        If stored content is corrupt; the file that needs it is not written.
    StorageError
        If the medium failed.
    """
    supply_files(session, files)
    reader = ContentReader(session, pool)
    reader.prepare(segment.id for file in files for segment in file.segments)
    result: dict[str, Tracked] = {}
    directories: set[Path] = set()
    with progress("writing", sum(file.size for file in files)) as tick:
        for file in files:
            target = root / file.path
            directories.update(_make_parents(session.fs, root, file.path))
            draft = _draft(session, target)
            result[file.path] = _write(session.fs, reader, file, draft, target, tick)
    for directory in sorted(directories):
        session.fs.fsync_dir(directory)
    return result


def supply_files(session: Session, files: Sequence[FileEntry]) -> None:
    """Have what a partial repository lacks of `files` brought here; see `Session.supply`."""
    session.supply({(part.kind, part.id): part.length for file in files for part in file.segments})


def _draft(session: Session, target: Path) -> Path:
    """Return where to write a file before it has its name: with our own temporaries, which are swept, if possible."""
    name = f".mvc-{os.urandom(8).hex()}.tmp"  # short: the target's name may be as long as any can be
    temporaries = session.layout.directory / "tmp"
    return (temporaries if _device(temporaries) == _device(target.parent) else target.parent) / name


def _device(directory: Path) -> int | None:
    try:
        return directory.stat().st_dev
    except OSError:
        return None


def write_pieces(session: Session, root: Path, path: str, pieces: Iterable[Bytes | bytes]) -> None:
    """Write a file that is in no commit, piece by piece, as `export` writes those that are.

    Raises
    ------
    InvalidInputError, StorageError
        As for `export`.
    """
    directories = _make_parents(session.fs, root, path)
    target = root / path

    def fill(placer: Placer) -> None:
        """Write the pieces one after the other."""
        offset = 0
        for piece in pieces:
            view = memoryview(piece if isinstance(piece, bytes) else piece.data).cast("B")
            placer.put(offset, view)
            placer.advance(view.nbytes)
            offset += view.nbytes

    _place(session.fs, _draft(session, target), target, 0o644, fill)
    for directory in directories:
        session.fs.fsync_dir(directory)


def _write(fs: FileSystem, reader: ContentReader, file: FileEntry, draft: Path, target: Path, tick: Tick) -> Tracked:
    def fill(placer: Placer) -> None:
        """Write the segments, in whatever order they are decoded."""
        written = 0
        with closing(reader.place([segment.id for segment in file.segments], placer.put)) as counts:
            for count in counts:
                placer.advance(count)
                tick(count)
                written += count
        if written != file.size:
            raise IntegrityError(
                f"{file.path!r} has {written:,} bytes; its manifest says {file.size:,}", hint="mvc fsck"
            )

    _place(fs, draft, target, file.mode, fill)
    return Tracked(file.mode, file.size, Stamp.of(target.stat()))


def _place(fs: FileSystem, draft: Path, target: Path, mode: int, fill: Callable[[Placer], None]) -> None:
    """Have a file written beside its place, flush it, and rename it over what stands there."""
    if target.is_dir() and not target.is_symlink():
        raise InvalidInputError(f"{target} is a directory where a file must go", hint="move it away")
    handle = fs.create(draft, mode)
    try:
        try:
            fill(Placer(fs, handle))
            fs.fsync(handle)
        finally:
            fs.close(handle)
        fs.replace(draft, target)
    except BaseException:
        with suppress(MvcError):
            fs.unlink(draft)
        raise


def _make_parents(fs: FileSystem, root: Path, path: str) -> list[Path]:
    """Make the directories above `path`, none of which may be a link to somewhere else; return them, `root` first."""
    here = root
    made = [root]
    for component in path.split("/")[:-1]:
        here = here / component
        fs.mkdir(here)
        mode = here.lstat().st_mode
        if S_ISLNK(mode) or not S_ISDIR(mode):
            noun = "a symbolic link" if S_ISLNK(mode) else "a file"
            raise InvalidInputError(f"{here} is {noun}; nothing is written through it", hint="move it away")
        made.append(here)
    return made


def remove_files(fs: FileSystem, root: Path, paths: Iterable[str]) -> None:
    """Remove files of the work tree, and the directories that become empty."""
    for path in sorted(paths):
        target = root / path
        if target.parent.resolve() != (root.resolve() / path).parent:
            continue  # a link has taken the place of a directory: what lies behind it is not ours
        if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
            fs.unlink(target)
        for parent in target.relative_to(root).parents[:-1]:
            try:
                (root / parent).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break  # not empty, or not ours to remove
