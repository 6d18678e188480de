"""The dirty check: what the work tree held when it last agreed with a commit.

``.mvc/worktree`` is a cache, like git's index without a staging area: it may be deleted at any time. It holds, for the
commit that it describes, the path, mode and size of every file, and the file's stat when it was last seen to hold what
the commit says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_digest

from mvc.errors import MvcError
from mvc.objects.canonical import Value, decode, encode
from mvc.objects.fields import array, integer, oid, record, text
from mvc.store.fs import FileSystem
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId, raw_id

__all__ = ["Stamp", "Tracked", "WorkTree", "is_settled", "load", "save", "settled"]

_RACY_NS: Final = 50_000_000
"""Nanoseconds. A file written so shortly before it is read may change again within one tick of the kernel's clock
(4 ms) without a new time; its stamp is dropped, so that the next check reads the file again."""
_COARSE_NS: Final = 2_000_000_000
"""Nanoseconds; the same where times are whole seconds, as on FAT and older network file systems."""
_FIELDS: Final = frozenset({"commit", "files"})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file; equal stamps mean an unchanged file.

    Parameters
    ----------
    mtime_ns, ctime_ns : int
        Times of the last change of content and of anything. The latter cannot be set back by a program.
    inode : int
        So that a replaced file is noticed.
    """

    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a stat result."""
        return cls(status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class Tracked:
    """One file of the commit, as last seen.

    Parameters
    ----------
    mode, size : int
        ``0o644`` or ``0o755``; bytes.
    stamp : Stamp or None
        None if the content must be read to know whether it changed.
    """

    mode: int
    size: int
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class WorkTree:
    """The cache.

    Parameters
    ----------
    commit : ObjectId or None
        What it describes; None before the first commit.
    files : mapping of str to Tracked
        Every file of that commit, by path.
    """

    commit: ObjectId | None
    files: Mapping[str, Tracked] = field(default_factory=dict)


def settled(stamp: Stamp, read_ns: int) -> Stamp | None:
    """Return `stamp`, or None if a file that was read from `read_ns` on could have changed since without a new time."""
    return stamp if is_settled(stamp.mtime_ns, stamp.ctime_ns, read_ns) else None


def is_settled(mtime_ns: int, ctime_ns: int, read_ns: int) -> bool:
    """Return False if a file of these times, read from `read_ns` on, could have changed since without a new time."""
    margin = _RACY_NS if mtime_ns % 1_000_000_000 else _COARSE_NS
    return max(mtime_ns, ctime_ns) < read_ns - margin


def load(path: Path) -> WorkTree | None:
    """Return the cache stored at `path`, or None if there is none or it is not readable: it can be made again."""
    try:
        data = path.read_bytes()
        if xxh3_64_digest(data[8:]) != data[:8]:
            return None
        return _read(decode(data[8:]))
    except (OSError, MvcError):
        return None


def save(path: Path, tree: WorkTree, fs: FileSystem) -> None:
    """Store the cache at `path`, replacing it at once.

    Stamps that are not settled yet are left out.
    """
    now_ns = time.time_ns()
    body = encode(
        {
            "commit": raw_id(tree.commit) if tree.commit else None,
            "files": [_value(name, tracked, now_ns) for name, tracked in sorted(tree.files.items())],
        }
    )
    Temporaries(path.parent, fs).write(path, xxh3_64_digest(body) + body)


def _value(path: str, tracked: Tracked, now_ns: int) -> Value:
    stamp = settled(tracked.stamp, now_ns) if tracked.stamp else None
    times = [stamp.mtime_ns, stamp.ctime_ns, stamp.inode] if stamp else None
    return [path, tracked.mode, tracked.size, times]


def _read(value: Value) -> WorkTree:
    fields = record(value, _FIELDS, "work tree")
    commit = None if fields["commit"] is None else oid(fields["commit"], "commit")
    return WorkTree(commit, dict(_read_file(item) for item in array(fields["files"], "files")))


def _read_file(value: Value) -> tuple[str, Tracked]:
    path, mode, size, times = array(value, "file", (4,))
    stamp = None if times is None else Stamp(*_integers(array(times, "stamp", (3,))))
    return text(path, "path"), Tracked(integer(mode, "mode"), integer(size, "size"), stamp)


def _integers(values: Iterable[Value]) -> list[int]:
    return [integer(value, "stamp", -(1 << 63), (1 << 64) - 1) for value in values]
