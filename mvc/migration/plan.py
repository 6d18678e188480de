"""What an import will do, as data: which commits, from where, onto which branches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from xxhash import xxh3_64_intdigest

from mvc.errors import InvalidInputError
from mvc.objects.commit import Metadata
from mvc.objects.refnames import branch_ref, check_ref_names
from mvc.repo.worktree import Stamp

__all__ = [
    "KINDS",
    "ORIGIN",
    "Branch",
    "DiskFile",
    "GitBlob",
    "ImportPlan",
    "Kind",
    "LfsObject",
    "Origin",
    "PlannedCommit",
    "PlannedFile",
    "PlannedTag",
    "Shard",
    "check_branches",
]

Kind = Literal["checkpoints", "git-lfs", "hf-cache"]
"""What can be imported."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

ORIGIN: Final = "imported_from"
"""Metadata of an imported commit: by its value an import knows what it need not import again."""

_SHARD: Final = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of an import that do not need each other.

    Parameters
    ----------
    index, count : int
        Which of how many; the first is 0, as array jobs count.

    Raises
    ------
    InvalidInputError
        If there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InvalidInputError(
                f"there is no shard {self.index} of {self.count}", hint="the first of N is 0/N, the last is N-1/N"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``I/N`` says."""
        match = _SHARD.fullmatch(text)
        if match is None:
            raise InvalidInputError(f"{text!r} is not a shard", hint="write it like 0/8: the first of 8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        """Return True if the branch `name` falls into this part: by a hash, so that what is added moves nothing.

        Examples
        --------
        >>> [Shard(i, 3).holds("org/model") for i in range(3)].count(True)
        1
        """
        return xxh3_64_intdigest(name.encode("utf-8", "surrogateescape")) % self.count == self.index


@dataclass(frozen=True, slots=True)
class LfsObject:
    """A file that git-lfs keeps beside the history.

    Parameters
    ----------
    file : Path
        Where it is.
    stamp : Stamp
        Its stat when the import was planned.
    sha256 : str
        What it must hash to.
    """

    file: Path
    stamp: Stamp
    sha256: str


@dataclass(frozen=True, slots=True)
class GitBlob:
    """A file in the history of git itself.

    Parameters
    ----------
    oid : str
        git's id of it.
    """

    oid: str


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file of a directory.

    Parameters
    ----------
    file : Path
        Where it is.
    stamp : Stamp
        Its stat when the import was planned.
    """

    file: Path
    stamp: Stamp


Origin = DiskFile | LfsObject | GitBlob
"""Where the bytes of a file are."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a commit to be.

    Parameters
    ----------
    path : str
        In the tree.
    mode : int
        ``0o644`` or ``0o755``.
    size : int
        Bytes.
    origin : Origin
        Where they are.
    """

    path: str
    mode: int
    size: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class PlannedCommit:
    """A commit to be.

    Parameters
    ----------
    origin : str
        What it is made of, in one line that is the same at every import; becomes its metadata `ORIGIN`.
    parents : tuple of str or None
        Origins of its parents, which stand before it; None for what the branch holds by then.
    author : str or None
        None for whoever imports.
    time : int
        Microseconds since 1970-01-01T00:00:00Z.
    message : str
        Not empty.
    metadata : Metadata
        Step, epoch, metrics.
    files : tuple of PlannedFile
        Files that it changes.
    replaces : tuple of str
        Paths that the tree of the first parent loses first; ``("",)`` for all.
    """

    origin: str
    parents: tuple[str, ...] | None
    author: str | None
    time: int
    message: str
    metadata: Metadata
    files: tuple[PlannedFile, ...]
    replaces: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the files that it changes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch to be, or to grow.

    Parameters
    ----------
    name : str
        Short name.
    commits : tuple of PlannedCommit
        What it is to hold, parents first. Branches of one history share commits.
    """

    name: str
    commits: tuple[PlannedCommit, ...]

    @property
    def tip(self) -> str:
        """Origin of the newest."""
        return self.commits[-1].origin


@dataclass(frozen=True, slots=True)
class PlannedTag:
    """A tag to be.

    Parameters
    ----------
    name : str
        Short name.
    target : str
        Origin of the commit.
    message, author, time
        As for `mvc.objects.commit.Tag`; no message for a plain ref.
    """

    name: str
    target: str
    message: str | None = None
    author: str = ""
    time: int = 0


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Everything that an import will do.

    Parameters
    ----------
    kind : Kind
        What is imported.
    source : Path
        From where.
    branches : tuple of Branch
        Of this shard.
    tags : tuple of PlannedTag
        Of this shard.
    notes : tuple of str
        What is left out, and why.
    """

    kind: Kind
    source: Path
    branches: tuple[Branch, ...]
    tags: tuple[PlannedTag, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def commits(self) -> Mapping[str, PlannedCommit]:
        """Every commit once, by origin, parents first."""
        return {commit.origin: commit for branch in self.branches for commit in branch.commits}


def check_branches(names: Sequence[str], hint: str) -> None:
    """Check that branches may be called so, and stand side by side.

    Raises
    ------
    InvalidInputError
        If not.
    """
    try:
        check_ref_names({branch_ref(name) for name in names})
    except InvalidInputError as error:
        raise InvalidInputError(error.message, hint=hint) from error
