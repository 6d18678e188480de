"""The grammar of ref names (spec-v1, section 4), after git's ``check-ref-format``."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from mvc.errors import InvalidInputError
from mvc.objects.paths import folded
from mvc.types import ObjectId

__all__ = [
    "BRANCHES",
    "HEAD",
    "NOTES",
    "REMOTES",
    "TAGS",
    "THINNED",
    "branch_ref",
    "check_ref_names",
    "check_short_name",
    "is_ref_name",
    "tag_ref",
    "thinned_ref",
]

HEAD: Final = "HEAD"
BRANCHES: Final = "refs/heads/"
TAGS: Final = "refs/tags/"
REMOTES: Final = "refs/remotes/"
"""What a branch of a remote, ``REMOTE/BRANCH``, was when it was last heard of."""
THINNED: Final = "refs/thinned/"
"""What stands in for a commit, whose id follows (spec-v1, section 12)."""

NOTES: Final = "refs/notes/"
"""Commits of files that say something of commits: metrics that were measured later."""

_MAX_BYTES: Final = 255
"""Bytes of a short name: NAME_MAX, so that any component fits in a file name."""

_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)
_ID: Final = re.compile(r"[0-9a-fA-F]{64}")
_LOWER_ID: Final = re.compile(r"[0-9a-f]{64}")


def _fault(name: str) -> str | None:
    """Return what is wrong with a short name, or None."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not name or size > _MAX_BYTES:
        return f"has {size} bytes; 1 to {_MAX_BYTES} are allowed"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode NFC"
    if match := _FORBIDDEN.search(name):
        return f"holds {match.group()!r}"
    if name in {"@", HEAD} or _ID.fullmatch(name) or name.startswith("refs/"):
        return "has a meaning of its own"
    if name[0] in "-/" or name[-1] in "./":
        return f"begins or ends with {name[0] if name[0] in '-/' else name[-1]!r}"
    for component in name.split("/"):
        if component.startswith(".") or component.casefold().endswith(".lock"):
            return f"has the component {component!r}"
        if _DEVICE.fullmatch(component):
            return f"has the Windows device name {component!r}"
    return None


def check_short_name(name: str) -> str:
    """Return `name` if a branch or tag may be called so.

    Raises
    ------
    InvalidInputError
        With the rule that it breaks.

    Examples
    --------
    >>> check_short_name("sweep/lr-3e-5")
    'sweep/lr-3e-5'
    """
    if fault := _fault(name):
        raise InvalidInputError(f"{name[:80]!r} cannot name a branch or tag: it {fault}", hint="choose another name")
    return name


def branch_ref(name: str) -> str:
    """Return the full ref name of branch `name`, checked."""
    return BRANCHES + check_short_name(name)


def tag_ref(name: str) -> str:
    """Return the full ref name of tag `name`, checked."""
    return TAGS + check_short_name(name)


def thinned_ref(commit: ObjectId) -> str:
    """Return the full name of the ref that says that `commit` is thinned."""
    return THINNED + commit


def is_ref_name(name: str) -> bool:
    """Return True if `name` is ``HEAD`` or a well-formed full ref name."""
    if name.startswith(THINNED):
        return _LOWER_ID.fullmatch(name.removeprefix(THINNED)) is not None
    for prefix in (BRANCHES, TAGS, REMOTES, NOTES):
        if name.startswith(prefix):
            return _fault(name.removeprefix(prefix)) is None
    return name == HEAD


def check_ref_names(names: set[str]) -> None:
    """Check that refs of these full names can stand side by side.

    Raises
    ------
    InvalidInputError
        If two differ only by case, or one is a directory of another.
    """
    seen: dict[str, str] = {}
    for name in sorted(names):
        key = folded(name)
        if key in seen:
            raise InvalidInputError(f"refs {seen[key]!r} and {name!r} differ only by case", hint="rename one of them")
        seen[key] = name
    for key, name in seen.items():
        parent = key.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise InvalidInputError(f"ref {seen[parent]!r} is a directory of {name!r}", hint="rename one of them")
            parent = parent.rpartition("/")[0]
