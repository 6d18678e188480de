"""What a merge must come to, in plain dicts: file by file, and tensor by tensor where safetensors files allow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, TypeVar

from mvc.errors import ConflictError
from mvc.repo.merge_plan import Side

__all__ = ["Files", "header_of", "merged_files"]

Files = Mapping[str, bytes]
"""Path -> content."""
T = TypeVar("T")
_LENGTH_BYTES: Final = 8
"""Bytes of the length before the header of a safetensors file."""


def merged_files(base: Files, ours: Files, theirs: Files, favour: Side | None) -> Files:
    """Return the merged tree.

    Raises
    ------
    ConflictError
        If both sides changed something, each in another way, and none is favoured.
    """
    paths = {*base, *ours, *theirs}
    merged = {path: _file(base.get(path), ours.get(path), theirs.get(path), favour) for path in paths}
    return {path: content for path, content in merged.items() if content is not None}


def _file(base: bytes | None, ours: bytes | None, theirs: bytes | None, favour: Side | None) -> bytes | None:
    versions = base, ours, theirs
    if base is not None and ours is not None and theirs is not None:
        tables = [header_of(content) for content in (base, ours, theirs)]
        if None not in tables and tables[0] == tables[1] == tables[2]:
            return _tensors(base, ours, theirs, favour)
    return _pick(*versions, favour)


def _pick(base: T, ours: T, theirs: T, favour: Side | None) -> T:
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    if favour is None:
        raise ConflictError("changed on both sides")
    return ours if favour == "ours" else theirs


def header_of(content: bytes) -> bytes | None:
    """Return the header of a safetensors file, with its length; None if it is another file."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    return content[:end] if content[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and end <= len(content) else None


def _tensors(base: bytes, ours: bytes, theirs: bytes, favour: Side | None) -> bytes:
    """Return three files with one header as one."""
    header = header_of(base) or b""
    result = bytearray(header)
    places = [item["data_offsets"] for name, item in json.loads(header[_LENGTH_BYTES:]).items() if name[:2] != "__"]
    for start, end in sorted(places):
        part = slice(len(header) + start, len(header) + end)
        result += _pick(base[part], ours[part], theirs[part], favour)
    return bytes(result)
