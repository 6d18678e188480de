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
    """A regular file of a directory tree.

    Parameters
    ----------
    path : str
        Relative to the tree's root, ``/`` between components.
    status : stat_result
        As it was when the tree was read.
    """

    path: str
    status: stat_result


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
    """Yield the regular files below `root` that `rules` do not ignore, in no particular order.

    Raises
    ------
    InvalidInputError
        At a symbolic link or special file: following a link could commit what lies outside, and recording the link
        would not record the weights.
    NotFoundError
        If `root` is missing.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry in _entries(root / prefix):
            path = prefix + entry.name
            status = _status(entry)
            if status is None or entry.name == ".mvc":
                continue
            directory = S_ISDIR(status.st_mode)
            if rules.match_file(path + "/" if directory else path):
                continue
            if directory:
                pending.append(path + "/")
            elif S_ISREG(status.st_mode):
                yield FoundFile(path, status)
            else:
                raise _unsupported(path, status)


def _entries(directory: Path) -> list[DirEntry[str]]:
    try:
        with scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
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
    noun = "a symbolic link" if S_ISLNK(status.st_mode) else "not a regular file"
    return InvalidInputError(
        f"{path!r} is {noun}; mvc records regular files only",
        hint=f"replace it by a copy (cp -L), or add {path} to {IGNORE_FILE}",
    )
