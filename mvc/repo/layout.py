"""Where a repository is, and whether this release may read and write it (spec-v1, section 10)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from mvc.errors import FormatError, InvalidInputError, NotFoundError, StorageError
from mvc.settings import Settings

__all__ = [
    "DIRECTORY",
    "FORMAT_TEXT",
    "Access",
    "Feature",
    "Layout",
    "check_document",
    "check_format",
    "discover",
    "features_of",
    "find_layout",
    "format_text",
    "read_features",
]

DIRECTORY: Final = ".mvc"
"""What makes a directory a work tree."""
VERSION: Final = 1
Access = Literal["read", "write", "gc"]
"""What is done to a repository; each takes what the ones before it take. ``gc`` stands for removing anything."""
_ACCESSES: Final[tuple[Access, ...]] = get_args(Access)
Feature = Literal["shallow", "partial", "thinned"]
"""What a repository may be beyond version 1 (spec-v1, section 12): without some commits, without some contents, or
without those of some commits."""
_FEATURES: Final[Mapping[Access, frozenset[str]]] = {
    "read": frozenset(get_args(Feature)),
    "write": frozenset(),
    "gc": frozenset(),
}
"""Features that this release knows, by access."""
Features = Mapping[Access, Sequence[str]]
"""Names of features by access."""


def format_text(features: Features) -> str:
    """Return the format file of a repository with `features`."""
    lists = "\n".join(f"{access} = {json.dumps(sorted(features.get(access, ())))}" for access in _ACCESSES)
    return f"""\
# The format of this repository: docs/reference/spec-v1.md, section 10. Written by mvc; do not edit.
version = 1

[features]
{lists}
"""


FORMAT_TEXT: Final = format_text({})
"""Of a repository that is just made."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one repository.

    Parameters
    ----------
    root : Path
        The work tree: the directory that holds ``.mvc``; of a bare repository, the directory that holds its files.
    bare : bool
        There is no work tree.
    """

    root: Path
    bare: bool = False

    @property
    def directory(self) -> Path:
        """``.mvc``, or what stands for it in a bare repository."""
        return self.root if self.bare else self.root / DIRECTORY

    @property
    def tree(self) -> Path:
        """The work tree.

        Raises
        ------
        InvalidInputError
            If there is none.
        """
        if self.bare:
            raise InvalidInputError(
                f"{self.root} is a bare repository: it has no work tree",
                hint="mvc checkout REF --to DIR, mvc commit --from DIR",
            )
        return self.root

    @property
    def format(self) -> Path:
        """Format version and features."""
        return self.directory / "format.toml"

    @property
    def config(self) -> Path:
        """Settings of this repository."""
        return self.directory / "config.toml"

    @property
    def shallow(self) -> Path:
        """The commits that are absent by design; there is none where none are."""
        return self.directory / "shallow"

    @property
    def index(self) -> Path:
        """The rebuildable SQLite index."""
        return self.directory / "index.sqlite"

    @property
    def worktree(self) -> Path:
        """The dirty-check cache."""
        return self.directory / "worktree"

    def settings(self) -> Settings:
        """Return the settings of ``config.toml``, or the defaults where it is missing.

        Raises
        ------
        InvalidInputError
            If a key is unknown or a value wrong.
        FormatError
            If it is not TOML.
        """
        return Settings.from_tables(_toml(self.config) if self.config.exists() else {}, str(self.config))


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not valid TOML: {error}", hint=f"correct {path}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def check_format(layout: Layout, access: Access = "read") -> None:
    """Refuse a repository of a format that this release does not know.

    Raises
    ------
    FormatError
        With the version or feature that is unknown.
    """
    check_document(_toml(layout.format), str(layout.directory), access)


def read_features(layout: Layout) -> dict[Access, tuple[str, ...]]:
    """Return the features that a repository has, those that this release does not know among them.

    Raises
    ------
    FormatError
        If the format file is not as the specification says.
    """
    return features_of(_toml(layout.format), str(layout.directory))


def features_of(document: Mapping[str, object], where: str) -> dict[Access, tuple[str, ...]]:
    """Return the features that a format file names; see `read_features`."""
    return {access: _names(document, access, where) for access in _ACCESSES}


def check_document(document: Mapping[str, object], where: str, access: Access = "read") -> None:
    """Refuse what a format file says of the repository at `where` if this release does not know it; see above."""
    if document.get("version") != VERSION:
        raise FormatError(
            f"{where} has format version {document.get('version')!r}; this release knows {VERSION}",
            hint="upgrade mvc: pip install --upgrade mvc",
        )
    for kind in _ACCESSES[: _ACCESSES.index(access) + 1]:
        if unknown := sorted(set(_names(document, kind, where)) - _FEATURES[kind]):
            raise FormatError(
                f"to {kind} {where} takes the feature {unknown[0]!r}, which this release lacks",
                hint="upgrade mvc: pip install --upgrade mvc",
            )


def _names(document: Mapping[str, object], access: Access, where: str) -> tuple[str, ...]:
    features = document.get("features", {})
    found = features.get(access, []) if isinstance(features, dict) else None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise FormatError(f"the format file of {where}: features.{access} is not a list of names")
    return tuple(found)


def discover(start: Path) -> Layout:
    """Return the repository that `start` lies in, looking upwards within one file system.

    Raises
    ------
    NotFoundError
        If there is none.
    FormatError
        If it is of an unknown format.
    """
    here = start.resolve()
    device = _device(here)
    for candidate in (here, *here.parents):
        if _device(candidate) != device:
            break
        layout = find_layout(candidate)
        if layout is not None:
            check_format(layout)
            return layout
    raise NotFoundError(f"{start} is not inside an mvc repository", hint="mvc init")


def find_layout(directory: Path) -> Layout | None:
    """Return the repository whose work tree, or whose bare directory, is `directory`; None if there is none.

    ``.mvc`` itself is the inside of a work tree's repository, and not bare.
    """
    layout, bare = Layout(directory), Layout(directory, bare=True)
    if layout.format.is_file():
        return layout
    if directory.name != DIRECTORY and bare.format.is_file() and (directory / "op_head").is_dir():
        return bare
    return None


def _device(path: Path) -> int:
    try:
        return path.stat().st_dev
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
