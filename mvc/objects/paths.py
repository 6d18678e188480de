"""Which paths a manifest may hold (spec-v1, section 4): those that any file system can keep apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from mvc.errors import InvalidInputError

__all__ = ["MAX_PATH_BYTES", "check_path", "check_paths", "folded"]

MAX_PATH_BYTES: Final = 4096
"""Bytes of UTF-8 in a path: PATH_MAX of Linux."""

_RESERVED: Final = ".mvc"


def check_path(path: str) -> str:
    """Return `path` if a manifest may hold it.

    Raises
    ------
    InvalidInputError
        If it is absolute, empty, too long, not Unicode, or a component is empty, ``.``, ``..``, ``.mvc`` or holds a
        control character or a backslash.

    Examples
    --------
    >>> check_path("checkpoint-500/model.safetensors")
    'checkpoint-500/model.safetensors'
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"path {path!r} is not valid Unicode", hint="rename the file") from None
    if size > MAX_PATH_BYTES:
        raise InvalidInputError(f"path {path[:60]!r}... has {size} bytes; at most {MAX_PATH_BYTES} are allowed")
    for component in path.split("/"):
        _check_component(path, component)
    return path


def _check_component(path: str, component: str) -> None:
    if component in {"", ".", ".."}:
        raise InvalidInputError(f"path {path!r} has the component {component!r}", hint="use a plain relative path")
    if component.casefold() == _RESERVED:
        raise InvalidInputError(f"path {path!r} reaches into .mvc, where only mvc writes")
    if any(character == "\\" or unicodedata.category(character) == "Cc" for character in component):
        raise InvalidInputError(
            f"path {path!r} holds a control character or a backslash", hint="rename the file or add it to .mvcignore"
        )


def folded(path: str) -> str:
    """Return what a case-insensitive, normalising file system makes of `path`."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def check_paths(paths: Iterable[str]) -> None:
    """Check that files at `paths` can stand in one tree.

    Raises
    ------
    InvalidInputError
        If two paths are equal after folding, or one is a directory of another.
    """
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in paths:
        key = folded(path)
        if key in seen:
            raise _clash(seen[key], path)
        seen[key] = path
        for end in (i for i, character in enumerate(key) if character == "/"):
            directories.setdefault(key[:end], path)
    for key in seen.keys() & directories.keys():
        raise _clash(seen[key], directories[key])


def _clash(one: str, other: str) -> InvalidInputError:
    return InvalidInputError(
        f"paths {one!r} and {other!r} are the same file on some file systems", hint="rename one of them"
    )
