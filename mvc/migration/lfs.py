"""git-lfs pointers (its specification, version 1), and where the objects lie that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from mvc.errors import InvalidInputError, NotFoundError
from mvc.migration.plan import LfsObject
from mvc.repo.worktree import Stamp

__all__ = ["MOST_POINTER_BYTES", "LfsStore", "Pointer", "parse_pointer"]

MOST_POINTER_BYTES: Final = 1023
"""Bytes: "pointer files must be less than 1024 bytes in size"."""

_VERSIONS: Final = ("https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1")
"""The second is what the project was called at first; git-lfs still reads it."""
_SHA256: Final = re.compile(r"sha256:([0-9a-f]{64})")
_SIZE: Final = re.compile(r"\d{1,19}")


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer says.

    Parameters
    ----------
    sha256 : str
        Of the object, 64 lower-case digits.
    size : int
        Its bytes.
    extended : bool
        Whether the object was changed by extensions on its way, so that it is not the file.
    """

    sha256: str
    size: int
    extended: bool = False


def parse_pointer(data: bytes) -> Pointer | None:
    r"""Return the pointer that a file is; None if it is an ordinary file.

    Examples
    --------
    >>> text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0a" * 32 + b"\nsize 12\n"
    >>> parse_pointer(text).size, parse_pointer(text.replace(b"0a", b"/."))
    (12, None)
    """
    if len(data) > MOST_POINTER_BYTES or not data.startswith(b"version "):
        return None
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return None
    fields = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    oid, size = _SHA256.fullmatch(fields.get("oid", "")), _SIZE.fullmatch(fields.get("size", ""))
    if fields["version"] not in _VERSIONS or oid is None or size is None:
        return None
    return Pointer(oid[1], int(size[0]), any(key.startswith("ext-") for key in fields))


@dataclass(frozen=True, slots=True)
class LfsStore:
    """The objects that git-lfs keeps in a repository.

    Parameters
    ----------
    directory : Path
        ``.git/lfs/objects``.
    """

    directory: Path

    def find(self, pointer: Pointer, where: str) -> LfsObject:
        """Return the object that a pointer stands for; it is not read.

        Parameters
        ----------
        pointer : Pointer
            The pointer.
        where : str
            Path and commit, for messages.

        Raises
        ------
        NotFoundError
            If it was not fetched.
        InvalidInputError
            If it has another size, or extensions changed it.
        """
        if pointer.extended:
            raise InvalidInputError(f"{where} uses an extension of git-lfs, which only that extension can undo")
        file = self.directory / pointer.sha256[:2] / pointer.sha256[2:4] / pointer.sha256
        try:
            status = file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"{where} is a git-lfs pointer, and its object {pointer.sha256} is not here; nothing was imported",
                hint="git lfs fetch --all",
            ) from None
        if not S_ISREG(status.st_mode) or status.st_size != pointer.size:
            raise InvalidInputError(
                f"{where} is to have {pointer.size} bytes, but {file} has {status.st_size}; nothing was imported",
                hint="git lfs fsck, then git lfs fetch --all",
            )
        return LfsObject(file, Stamp.of(status), pointer.sha256)
