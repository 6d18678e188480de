"""Checkpoints in several files: what the index of a sharded model promises."""

from __future__ import annotations

import json
from typing import Final

__all__ = ["INDEX_SUFFIXES", "shard_names"]

INDEX_SUFFIXES: Final = (".safetensors.index.json", ".bin.index.json")
"""Endings of the index files of transformers; the shards lie beside them."""

_MAX_INDEX_BYTES: Final = 256 << 20
"""Bytes; 1,000,000 names of 200 bytes each, as for manifests."""


def shard_names(text: str | bytes) -> frozenset[str] | None:
    """Return the file names that an index promises, or None if it is malformed and so promises nothing.

    Parameters
    ----------
    text : str or bytes
        The content of a ``*.safetensors.index.json``.

    Examples
    --------
    >>> shard_names('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    frozenset({'model-00001-of-00001.safetensors'})
    >>> shard_names("{") is None
    True
    """
    if len(text) > _MAX_INDEX_BYTES:
        return None
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        return None
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        return None
    names = frozenset(name for name in weights.values() if _is_sibling(name))
    return names if all(_is_sibling(name) for name in weights.values()) else None


def _is_sibling(name: object) -> bool:
    """Return True for the plain name of a file in the same directory."""
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")
