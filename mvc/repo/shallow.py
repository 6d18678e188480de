"""Commits that are absent by design, because a fetch had a depth: ``.mvc/shallow`` (spec-v1, section 12)."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from mvc.errors import MalformedError, NotFoundError, StorageError
from mvc.repo.features import set_feature
from mvc.repo.layout import Layout
from mvc.repo.workspace import Workspace
from mvc.store.tmp import Temporaries
from mvc.types import ObjectId

__all__ = ["MAX_ABSENT", "read_shallow", "shallow_version", "write_shallow"]

MAX_ABSENT: Final = 1_000_000
"""Lines of the file (spec-v1, section 12)."""
_LINE_BYTES: Final = 65
_LINES: Final = re.compile(rb"(?:[0-9a-f]{64}\n)*")


def shallow_version(layout: Layout) -> object:
    """Return what differs when the list has changed: it is replaced as a whole. None where there is no list."""
    try:
        status = layout.shallow.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_shallow(layout: Layout) -> frozenset[ObjectId]:
    """Return the commits that are listed; none where there is no list.

    Raises
    ------
    MalformedError
        If the list is not one.
    """
    path = layout.shallow
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ABSENT * _LINE_BYTES + 1)
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    lines = data.split(b"\n")[:-1]
    if not _LINES.fullmatch(data) or len(lines) > MAX_ABSENT or lines != sorted(set(lines)):
        raise MalformedError(f"{path} is not a sorted list of ids", hint="mvc fsck")
    return frozenset(ObjectId(line.decode("ascii")) for line in lines)


def write_shallow(workspace: Workspace, absent: Collection[ObjectId]) -> None:
    """Replace the list, durably. To be called with the maintenance lease, before refs move.

    Raises
    ------
    StorageError
        If there are too many.
    """
    if absent == read_shallow(workspace.layout):
        return
    if len(absent) > MAX_ABSENT:
        raise StorageError(f"{len(absent):,} commits would be absent by design; the limit is {MAX_ABSENT:,}")
    if absent:
        set_feature(workspace, "shallow", present=True)
        data = "".join(f"{oid}\n" for oid in sorted(absent)).encode("ascii")
        Temporaries(workspace.layout.directory, workspace.fs).durable_write(workspace.layout.shallow, data)
        return
    with suppress(NotFoundError):
        workspace.fs.unlink(workspace.layout.shallow)
        workspace.fs.fsync_dir(workspace.layout.directory)
    set_feature(workspace, "shallow", present=False)
