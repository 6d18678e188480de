"""Which contents a partial repository may lack: large tensors whose names fit no pattern (spec-v1, section 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from mvc.errors import InvalidInputError
from mvc.objects.manifest import Manifest, SegmentKind
from mvc.types import ObjectId

__all__ = ["SMALL_BYTES", "Contents", "may_be_promised", "parse_filter", "split_contents"]

SMALL_BYTES: Final = 64 << 10
"""Decoded bytes below which a content always comes: a request for it later would take longer than its bytes do."""
_PREFIX: Final = "tensors="

Contents = Mapping[ObjectId, tuple[SegmentKind, int]]
"""Kind and decoded bytes of contents, as manifests have them."""


def may_be_promised(kind: SegmentKind, size: int) -> bool:
    """Return whether a content may be left out; literals never are."""
    return kind == "tensor" and size >= SMALL_BYTES


def parse_filter(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of names that filters state, as ``fnmatch`` takes them.

    Raises
    ------
    InvalidInputError
        If one is not of the form ``tensors=PATTERN``.

    Examples
    --------
    >>> parse_filter(["tensors=*.bias", "tensors=lm_head.*"])
    ('*.bias', 'lm_head.*')
    """
    patterns = []
    for text in texts:
        if not text.startswith(_PREFIX):
            raise InvalidInputError(f"{text!r} is not a filter", hint="write it like 'tensors=*LayerNorm*'")
        patterns.append(text.removeprefix(_PREFIX))
    return tuple(patterns)


def split_contents(
    wanted: Contents, manifests: Iterable[Manifest], patterns: Sequence[str]
) -> tuple[dict[ObjectId, tuple[SegmentKind, int]], int]:
    """Return what of `wanted` is to come, and how many contents are left out.

    Parameters
    ----------
    wanted : mapping of ObjectId to (SegmentKind, int)
        Contents that `manifests` name.
    manifests : iterable of Manifest
        What they are called there; one fitting name suffices.
    patterns : sequence of str
        As `parse_filter` returns them.
    """
    large = {oid for oid, what in wanted.items() if may_be_promised(*what)}
    names: dict[str, set[ObjectId]] = {}
    for manifest in manifests:
        for entry in manifest.tensors:
            if entry.id in large:
                names.setdefault(entry.name, set()).add(entry.id)
    for name, ids in names.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            large -= ids
    return {oid: what for oid, what in wanted.items() if oid not in large}, len(large)
