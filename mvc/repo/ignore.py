"""What of a directory belongs to a commit: everything that ``.mvcignore`` does not name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import DirEntry, scandir, stat_result
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Final

from pathspec import GitIgnoreSpec

from mvc.errors import InvalidInputError, NotFoundError, StorageError

__all__ = ["DEFAULT_PATTERNS", "IGNORE_FILE", "FoundFile", "find_files", "ignore_rules"]

IGNORE_FILE: Final = ".mvcignore"

DEFAULT_PATTERNS: Final = (".mvc", ".git", "*.tmp", "events.out.tfevents.*", "__pycache__/", ".DS_Store")
"""Ignored unless ``.mvcignore`` takes them in again with ``!``: our own directory, git's, half-written files, and
TensorBoard logs, which grow while they are read."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a directory tree.

    Parameters
    ----------
    path : str
        Relative to the tree's root, ``/`` between components.
    status : stat_result
        As it was when the tree was read.
    """

    path: str
    status: stat_result

    @property
    def regular(self) -> bool:
        """True if it can be recorded; False for links, sockets and other special files."""
        return S_ISREG(self.status.st_mode)

    def check_regular(self) -> None:
        """Refuse what cannot be recorded: a link itself would not record the weights that it leads to.

        Raises
        ------
        InvalidInputError
            If it is a link or special file.
        """
        if not self.regular:
            raise _unsupported(self.path, self.status)


def ignore_rules(root: Path) -> GitIgnoreSpec:
    """Return the rules that hold below `root`: the defaults, then its ``.mvcignore``."""
    lines = list(DEFAULT_PATTERNS)
    try:
        lines += (root / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{root / IGNORE_FILE} cannot be read: {error}") from error
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise InvalidInputError(f"{root / IGNORE_FILE} holds a line that is no pattern: {error}") from error


def find_files(root: Path, rules: GitIgnoreSpec) -> Iterator[FoundFile]:
    """Yield what lies below `root` and is neither a directory nor ignored by `rules`, in no particular order.

    Links are not followed: that could commit what lies outside.

    Raises
    ------
    NotFoundError
        If `root` is missing.
    StorageError
        If a directory cannot be read.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in _entries(root / prefix, top=not prefix):
            path = prefix + entry.name
            status = _status(entry)
            if status is None or entry.name == ".mvc":
                continue
            directory = S_ISDIR(status.st_mode)
            if rules.match_file(path + "/" if directory else path):
                continue
            if directory:
                pending.append(path + "/")
            else:
                yield FoundFile(path, status)


def _entries(directory: Path, *, top: bool) -> list[DirEntry[str]]:
    try:
        with scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        if not top:
            return []  # gone since its parent was read, as when a trainer rotates its checkpoints
        raise NotFoundError(f"{directory} does not exist") from None
    except OSError as error:
        raise StorageError(f"{directory} cannot be read: {error.strerror}") from error


def _status(entry: DirEntry[str]) -> stat_result | None:
    """Return the status of an entry, or None if it has gone since the directory was read."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{entry.path} cannot be read: {error.strerror}") from error


def _unsupported(path: str, status: stat_result) -> InvalidInputError:
    link = S_ISLNK(status.st_mode)
    return InvalidInputError(
        f"{path!r} is {'a symbolic link' if link else 'not a regular file'}; mvc records regular files only",
        hint=f"{'replace it by a copy (cp -L), or ' if link else ''}add {path} to {IGNORE_FILE}",
    )
