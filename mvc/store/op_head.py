"""The pointer to the newest operation: the only thing in a repository that moves (spec-v1, section 9).

The head is the file of ``.mvc/op_head`` with the highest number. Moving it from n to n+1 is creating the file n+1 with
link(), which exactly one of several writers can do. No lock is held, so none is left behind by a dead process.

Old files are removed, so a writer that slept may create a file whose number had been used and removed since. It then
finds a higher number than its own, and gives way. Files are removed in ascending order: a file that is there while its
successor is not has never had one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from mvc.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    MvcError,
    NotFoundError,
    StorageError,
)
from mvc.store.fs import FileSystem
from mvc.store.tmp import Temporaries
from mvc.types import ID_BYTES, ObjectId, object_id

__all__ = ["KEPT_HEADS", "Head", "OpHead", "parse_head"]

_DIGITS: Final = 20
"""Digits of a file name: those of 2**64 - 1."""
_NAME: Final = re.compile(r"[0-9]{20}\Z")
_FILE_BYTES: Final = 2 * ID_BYTES + 1
"""An id and a line feed."""
KEPT_HEADS: Final = 8
"""Numbers below the head whose files stay: time for readers between listing and reading, and a trail for repairs."""
_TRIES: Final = 1000
"""Times that a reader looks again when the file that it chose is gone; each is 9 commits between two system calls."""
_PATIENCE: Final = 20
"""Times that a short file is looked at again. Only a file system without links shows a file before it is complete."""
_PAUSE: Final = 0.01
"""Seconds between two such looks."""


class Head(NamedTuple):
    """The newest operation: its number and its id."""

    number: int
    oid: ObjectId


class OpHead:
    """Compare-and-swap on the head of the operation log.

    Parameters
    ----------
    root : Path
        The ``.mvc`` directory.
    fs : FileSystem
        Where to read and write.
    """

    def __init__(self, root: Path, fs: FileSystem) -> None:
        self.directory = root / "op_head"
        self._fs = fs
        self._temporaries = Temporaries(root, fs)

    def read(self) -> Head | None:
        """Return the head, or None if no operation was ever recorded.

        Raises
        ------
        IntegrityError
            If the head's file does not hold an id. There is no falling back to an older one: that would undo operations
            unseen.
        """
        for _ in range(_TRIES):
            number = self._highest()
            if number is None:
                return None
            with suppress(NotFoundError):  # removed since it was listed: the head has moved on
                return Head(number, self._content(number))
        raise StorageError(f"{self.directory} changes faster than it can be read", transient=True)

    def advance(self, number: int, oid: ObjectId, is_ancestor: Callable[[ObjectId, ObjectId], bool]) -> None:
        """Make `oid`, an operation that is durable already, the head; it then is durably so.

        Repeating a call that succeeded, or whose outcome was lost, succeeds again.

        Parameters
        ----------
        number : int
            The operation's number: one more than the head on which it was built, or 0 for the first.
        oid : ObjectId
            The operation.
        is_ancestor : callable
            ``is_ancestor(oid, head)`` says whether `oid` is an ancestor of the operation `head`. Asked only if the head
            has a higher number.

        Raises
        ------
        ConflictError
            If another writer moved the head first. Nothing has changed: read the head again and build on it.
        StorageError
            If the medium failed. The head may have moved or not: read it again.
        """
        if not 0 <= number < 1 << 64:
            raise InvalidInputError(f"{number} is not the number of an operation")
        head = self.read()
        if head is None or head.number < number:
            self._create(number, oid, head)
            head = self.read()
        if head is None or head.number < number:
            raise IntegrityError(
                f"{self.directory} lost file {number}", hint="is the directory shared and out of step?"
            )
        if head.oid != oid and (head.number == number or not is_ancestor(oid, head.oid)):
            self._withdraw(number, oid, head)
            raise _conflict(number, head)
        self._fs.fsync_dir(self.directory)  # also when the file was there: whoever made it may not have got this far
        self._prune(number)

    def files(self) -> dict[int, ObjectId | None]:
        """Return what every file says, by number; None for one that does not hold an id."""
        found: dict[int, ObjectId | None] = {}
        for number in sorted(self._numbers()):
            with suppress(NotFoundError):
                try:
                    found[number] = self._content(number)
                except IntegrityError:
                    found[number] = None
        return found

    def path(self, number: int) -> Path:
        """Return where the file of a number is, or would be."""
        return self.directory / f"{number:0{_DIGITS}}"

    def restore(self, number: int, oid: ObjectId) -> None:
        """Put a file that names `oid` in the place of one that is damaged, durably. For repairs only."""
        self._fs.mkdir(self.directory)
        self._temporaries.durable_write(self.path(number), f"{oid}\n".encode("ascii"))

    def _create(self, number: int, oid: ObjectId, head: Head | None) -> None:
        if number != (0 if head is None else head.number + 1):
            raise _conflict(number, head)
        with self._temporaries.draft() as draft, suppress(AlreadyExistsError):  # who won is seen by reading
            draft.write(f"{oid}\n".encode("ascii"))
            draft.claim(self.path(number))

    def _withdraw(self, number: int, oid: ObjectId, head: Head) -> None:
        """Remove the file of a late writer, far below the head, where nobody looks."""
        with suppress(MvcError):
            if number < head.number and self._content(number) == oid:
                self._fs.unlink(self.path(number))

    def _prune(self, number: int) -> None:
        """Remove old files in ascending order. Failing to is no error: the next writer will."""
        with suppress(MvcError):
            for old in sorted(self._numbers()):
                if old < number - KEPT_HEADS:
                    with suppress(NotFoundError):
                        self._fs.unlink(self.path(old))

    def _highest(self) -> int | None:
        """Return the highest number; a listing that was overtaken is followed up file by file."""
        number = max(self._numbers(), default=None)
        while number is not None and self._fs.size(self.path(number + 1)) is not None:
            number += 1
        return number

    def _numbers(self) -> list[int]:
        return [int(name) for name in self._fs.names(self.directory) if _NAME.match(name)]

    def _content(self, number: int) -> ObjectId:
        path = self.path(number)
        data = self._fs.read_file(path, _FILE_BYTES)
        for _ in range(_PATIENCE):
            if len(data) >= _FILE_BYTES:
                break
            time.sleep(_PAUSE)
            data = self._fs.read_file(path, _FILE_BYTES)
        try:
            return parse_head(data)
        except (UnicodeDecodeError, InvalidInputError) as error:
            hint = f"restore it, or remove it to go back to the operation before, then run mvc fsck: {path}"
            raise IntegrityError(f"{path} does not hold the id of an operation", hint=hint) from error


def parse_head(data: bytes) -> ObjectId:
    """Return the id that a head's file holds; InvalidInputError or UnicodeDecodeError if it holds anything else."""
    text = data.decode("ascii")
    if not text.endswith("\n"):
        raise InvalidInputError("no line feed at the end")
    return object_id(text[:-1])


def _conflict(number: int, head: Head | None) -> ConflictError:
    at = "there is none" if head is None else f"it is {head.oid[:12]}, number {head.number}"
    return ConflictError(
        f"operation {number} cannot become the head: {at}", hint="another process moved it; run the command again"
    )
