"""What a server takes at most, by kind of key: checked before a body is read."""

from __future__ import annotations

from typing import Final

from mvc.errors import RemoteError
from mvc.remotes.keys import FORMAT, HEAD_BYTES, HEADS, LOOSE, MAX_FORMAT_BYTES, MAX_INDEX_BYTES, OPERATIONS, PACKS

__all__ = ["DECODED_BYTES", "LARGEST_PACK", "check_size"]

LARGEST_PACK: Final = 16 << 30
"""Bytes of a pack or loose blob if nothing else is configured: a single tensor of 8 billion numbers in bf16."""
DECODED_BYTES: Final = 1 << 40
"""Bytes to which all blobs of one pack may decode: a pack of few bytes may claim any number, and would keep a server
busy for years. A terabyte is more than any checkpoint has today."""
_OPERATION_BYTES: Final = 16 << 20
"""Bytes of an operation: 100,000 refs."""
_PROBE_BYTES: Final = 32


def check_size(key: str, size: int, largest: int = LARGEST_PACK) -> None:
    """Refuse a body that is larger than what is stored under such a key.

    Parameters
    ----------
    key : str
        A key.
    size : int
        Bytes of the body.
    largest : int
        Bytes of the largest pack.

    Raises
    ------
    RemoteError
        If it is.
    """
    limit = _limit(key, largest)
    if size > limit:
        raise RemoteError(f"{key} has {size:,} bytes; at most {limit:,} are taken here")


def _limit(key: str, largest: int) -> int:
    if key == FORMAT:
        return MAX_FORMAT_BYTES
    if key.startswith(HEADS):
        return HEAD_BYTES
    if key.startswith(OPERATIONS):
        return _OPERATION_BYTES
    if key.startswith(PACKS) and key.endswith(".idx"):
        return MAX_INDEX_BYTES
    return largest if key.startswith((PACKS, LOOSE)) else _PROBE_BYTES
