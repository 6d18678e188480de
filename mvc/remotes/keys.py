"""The keys of a remote (remotes-v1, section 1): the only names that are ever taken from, or given to, an engine."""

from __future__ import annotations

import re
from typing import Final

from mvc.errors import IntegrityError, MalformedError
from mvc.store.layout import MAX_METADATA_BYTES
from mvc.types import ObjectId

__all__ = [
    "FORMAT",
    "HEADS",
    "HEAD_BYTES",
    "LOOSE",
    "MAX_BODY_BYTES",
    "MAX_FORMAT_BYTES",
    "MAX_INDEX_BYTES",
    "MAX_OPERATION_BYTES",
    "OPERATIONS",
    "PACKS",
    "PROBES",
    "check_key",
    "check_prefix",
    "head_key",
    "index_key",
    "is_key",
    "is_prefix",
    "loose_key",
    "operation_key",
    "pack_key",
]

FORMAT: Final = "format.toml"
HEADS: Final = "op_head/"
OPERATIONS: Final = "ops/"
PACKS: Final = "packs/"
LOOSE: Final = "objects/"
PROBES: Final = "probe/"
"""Keys that mean nothing, and are removed again."""

MAX_FORMAT_BYTES: Final = 64 << 10
"""Bytes of ``format.toml``: a version and some names of features."""
HEAD_BYTES: Final = 65
"""Bytes of a head file: an id and a line feed."""
MAX_OPERATION_BYTES: Final = MAX_METADATA_BYTES + 8
"""Bytes of an operation with its checksum."""
MAX_BODY_BYTES: Final = 1 << 62
"""Bytes of a pack or a loose blob."""
MAX_INDEX_BYTES: Final = 1 << 32
"""Bytes of the index of a pack: 76 million entries."""

_KEY: Final = re.compile(
    r"format\.toml|op_head/[0-9]{20}|ops/([0-9a-f]{2})/\1[0-9a-f]{62}|packs/[0-9a-f]{64}\.(pack|idx)"
    r"|objects/([0-9a-f]{2})/\3[0-9a-f]{62}\.blob|probe/[0-9a-f]{32}"
)


def is_key(text: str) -> bool:
    """Return True if `text` is a key.

    Examples
    --------
    >>> is_key("op_head/00000000000000000007"), is_key("packs/../../etc/passwd")
    (True, False)
    """
    return _KEY.fullmatch(text) is not None


def check_key(text: str) -> str:
    """Return `text` if it is a key; IntegrityError if not."""
    if not is_key(text):
        raise IntegrityError(f"{text[:80]!r} is not a key of a remote")
    return text


def is_prefix(text: str) -> bool:
    """Return True if some key begins with `text`.

    Examples
    --------
    >>> is_prefix(""), is_prefix("ops/a"), is_prefix("ops/ab/ac"), is_prefix("packs/../../etc/")
    (True, True, False, False)
    """
    return any(is_key(text + example[len(text) :]) for example in _examples(text))


def check_prefix(text: str) -> str:
    """Return `text` if some key begins with it; MalformedError if none does."""
    if not is_prefix(text):
        raise MalformedError(f"no key of a remote begins with {text[:80]!r}")
    return text


def _examples(text: str) -> list[str]:
    """Return a key of each kind; where ids lie in directories by their first digits, those that `text` says."""
    found = [FORMAT, f"{HEADS}{0:020}", f"{PACKS}{0:064}.pack", f"{PACKS}{0:064}.idx", f"{PROBES}{0:032}"]
    for top, end in ((OPERATIONS, ""), (LOOSE, ".blob")):
        digits = (text[len(top) : len(top) + 2] + "00")[:2]
        found.append(f"{top}{digits}/{digits}{0:062}{end}")
    return found


def head_key(number: int) -> str:
    """Return the key of a head file."""
    return f"{HEADS}{number:020}"


def operation_key(oid: ObjectId) -> str:
    """Return the key of an operation."""
    return f"{OPERATIONS}{oid[:2]}/{oid}"


def pack_key(pack: ObjectId) -> str:
    """Return the key of a pack."""
    return f"{PACKS}{pack}.pack"


def index_key(pack: ObjectId) -> str:
    """Return the key of the index of a pack."""
    return f"{PACKS}{pack}.idx"


def loose_key(oid: ObjectId) -> str:
    """Return the key of a loose blob."""
    return f"{LOOSE}{oid[:2]}/{oid}.blob"
