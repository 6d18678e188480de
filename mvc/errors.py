"""Every error that mvc raises, grouped by what a handler does next.

::

    MvcError                        catch this to catch everything that mvc raises on purpose
    ├── NotFoundError               (LookupError)  look elsewhere: no such ref, object, path, repository
    │   ├── AmbiguousRefError       give more characters of the id
    │   └── ThinnedError            a commit whose contents were let go: take what stands in for it
    ├── AlreadyExistsError          choose another name
    ├── ConflictError               somebody else moved on: read again, then retry or merge
    │   └── DirtyWorkTreeError      commit, restore, or pass --force
    ├── InvalidInputError           (ValueError)  correct the argument or the file
    │   ├── SpecMismatchError       dtype, shape or length differ from what was promised
    │   └── DamagedFileError        a checkpoint file contradicts itself: finish writing it, or ignore it
    ├── IntegrityError              stored bytes are wrong: run ``mvc fsck``
    │   └── MalformedError          stored bytes are not of the format that they claim
    ├── FormatError                 newer or unknown format: upgrade mvc
    ├── ReadOnlyError               nothing may be written here
    ├── RemoteError                 a remote, or the way to it, failed; ``transient`` says whether trying again can help
    │   ├── AuthenticationError     give the right token or key
    │   └── NoRepositoryError       there is nothing at that URL
    └── StorageError                the medium failed; ``transient`` says whether trying again can help

``kind`` is a machine code. Codes are append-only: new ones may appear in any release, none is renamed or removed.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExistsError",
    "AmbiguousRefError",
    "AuthenticationError",
    "ConflictError",
    "DamagedFileError",
    "DirtyWorkTreeError",
    "FormatError",
    "IntegrityError",
    "InvalidInputError",
    "MalformedError",
    "MvcError",
    "NoRepositoryError",
    "NotFoundError",
    "ReadOnlyError",
    "RemoteError",
    "SpecMismatchError",
    "StorageError",
    "ThinnedError",
]


class MvcError(Exception):
    """Root of the tree; catch it where any refusal by mvc is handled alike.

    Parameters
    ----------
    message : str
        What happened and why, one sentence, without a full stop at the end of a command.
    hint : str, optional
        The next command or action, shown after the message by the command line.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFoundError(MvcError, LookupError):
    """A ref, object, path or repository does not exist."""

    kind = "not-found"


class AmbiguousRefError(NotFoundError):
    """An abbreviated id fits more than one object."""

    kind = "ambiguous-ref"


class ThinnedError(NotFoundError):
    """The contents of a commit were let go by ``mvc thin``; the hint says what stands in for it."""

    kind = "thinned"


class AlreadyExistsError(MvcError):
    """The name is taken."""

    kind = "already-exists"


class ConflictError(MvcError):
    """Another writer moved what this call was about to move; nothing was lost."""

    kind = "conflict"


class DirtyWorkTreeError(ConflictError):
    """Going on would overwrite work-tree content that no commit holds."""

    kind = "dirty-work-tree"


class InvalidInputError(MvcError, ValueError):
    """An argument, name or file is not acceptable; nothing was written."""

    kind = "invalid-input"


class SpecMismatchError(InvalidInputError):
    """Dtype, shape or length differ from what was promised."""

    kind = "spec-mismatch"


class DamagedFileError(InvalidInputError):
    """A checkpoint file contradicts itself (truncated, overlapping regions, wrong offsets)."""

    kind = "damaged-file"


class IntegrityError(MvcError):
    """Stored bytes do not have the content that their id or checksum promises."""

    kind = "integrity"


class MalformedError(IntegrityError):
    """Stored bytes do not follow the format that they claim to have."""

    kind = "malformed"


class FormatError(MvcError):
    """The data is of a format, codec or feature that this release does not know."""

    kind = "format"


class ReadOnlyError(MvcError):
    """The repository or directory may not be written."""

    kind = "read-only"


class StorageError(MvcError):
    """The medium failed (full disk, I/O error, missing permission).

    Parameters
    ----------
    message, hint
        As for `MvcError`.
    transient : bool
        True when trying again later may help.
    """

    kind = "storage"

    def __init__(self, message: str, *, hint: str | None = None, transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class RemoteError(MvcError):
    """A remote, or the way to it, failed, or refuses.

    Parameters
    ----------
    message, hint
        As for `MvcError`.
    transient : bool
        True when trying again later may help.
    """

    kind = "remote"

    def __init__(self, message: str, *, hint: str | None = None, transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class AuthenticationError(RemoteError):
    """The remote does not let us in, or not do this."""

    kind = "authentication"


class NoRepositoryError(RemoteError):
    """There is no repository at the URL of a remote."""

    kind = "no-repository"
