"""What coded planes consist of: entries, payloads, and the modes that have no parts (spec-v1, section 6.2)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from mvc.codecs import kernels, zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Buffer
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

__all__ = [
    "CONSTANT",
    "ENTRY_BYTES",
    "RAW",
    "ZSTD",
    "Coded",
    "cut",
    "cut_off",
    "decode_part",
    "encode_part",
    "laid_out",
]

RAW: Final = 0
CONSTANT: Final = 1
ZSTD: Final = 2

Coded = tuple[int, bytes | memoryview]
"""Mode and payload."""

_ENTRY: Final = struct.Struct("<BI")

ENTRY_BYTES: Final = _ENTRY.size
"""Bytes of the mode and length of one plane; what coding costs when nothing can be gained."""


def laid_out(coded: Sequence[Coded]) -> bytes:
    """Return the entries and, behind them, the payloads."""
    entries = b"".join(_ENTRY.pack(mode, len(payload)) for mode, payload in coded)
    return kernels.active.concatenate((entries, *(payload for _, payload in coded)))


def cut(stored: memoryview, count: int) -> list[Coded]:
    """Undo `laid_out` for `count` planes.

    Raises
    ------
    MalformedError
        If the lengths do not add up to `stored`.
    """
    parts, rest = cut_off(stored, count)
    if len(rest):
        raise MalformedError(f"{len(rest)} bytes follow {count} coded planes")
    return parts


def cut_off(stored: memoryview, count: int) -> tuple[list[Coded], memoryview]:
    """Undo `laid_out` for the `count` planes that `stored` begins with; return them, and what follows.

    Raises
    ------
    MalformedError
        If `stored` is shorter than their lengths say.
    """
    start = count * ENTRY_BYTES
    if len(stored) < start:
        raise MalformedError(f"{count} coded planes need {start} bytes of entries; there are {len(stored)} bytes")
    entries = [_ENTRY.unpack_from(stored, i * ENTRY_BYTES) for i in range(count)]
    ends = list(accumulate((length for _, length in entries), initial=start))
    if ends[-1] > len(stored):
        raise MalformedError(f"coded planes state {ends[-1]} bytes; there are {len(stored)}")
    return [(mode, stored[a:b]) for (mode, _), (a, b) in zip(entries, pairwise(ends), strict=True)], stored[ends[-1] :]


def encode_part(part: Bytes) -> Coded:
    """Return mode and payload of a byte string, not empty, in the mode that is shortest."""
    if (part == part[0]).all():
        return CONSTANT, part[:1].data
    found = zstd.compress(part, Effort.REPEATS)
    return (ZSTD, found) if len(found) < len(part) else (RAW, part.data)


def decode_part(mode: int, payload: bytes | memoryview, size: int) -> Buffer:
    """Return the `size` bytes that are coded in a mode without parts.

    Raises
    ------
    MalformedError
        If the mode is another one, or the payload is not of it. Lengths are checked before anything is decoded.
    """
    if mode == RAW and len(payload) == size:
        return payload
    if mode == CONSTANT and len(payload) == 1 and size:
        return bytes(payload) * size
    if mode == ZSTD and len(payload) < size:
        return zstd.decompress(memoryview(payload), size)
    raise MalformedError(f"plane of {size} bytes has mode {mode} and {len(payload)} stored bytes")
