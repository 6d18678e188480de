"""Coded planes (spec-v1, section 6.2): several byte strings of one length, each stored in the mode that suits it.

Layout: for each plane u8 mode and u32 length, then the payloads.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from mvc.codecs import zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Buffer
from mvc.codecs.plane_choice import Plan, plans
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

__all__ = ["ENTRY_BYTES", "decode_planes", "encode_planes"]

_RAW: Final = 0
_CONSTANT: Final = 1
_ZSTD: Final = 2
_APART: Final = 3

_MOST_REST: Final = 127
"""The largest byte whose lowest bit was taken away."""

_Coded = tuple[int, bytes | memoryview]
"""Mode and payload."""

_ENTRY: Final = struct.Struct("<BI")

ENTRY_BYTES: Final = _ENTRY.size
"""Bytes of the mode and length of one plane; what coding costs when nothing can be gained."""


def encode_planes(planes: Sequence[Bytes], effort: Effort) -> bytes:
    """Return the coded planes.

    Parameters
    ----------
    planes : sequence of Bytes, each shape (N,)
        Not modified.
    effort : Effort
        How to code a plane without repeats: ``STEADY`` or ``DRIFTING``.

    Returns
    -------
    bytes
        At most ``P * (N + ENTRY_BYTES)`` of them.
    """
    return _laid_out([_encode(plane, effort) for plane in planes])


def _laid_out(coded: Sequence[_Coded]) -> bytes:
    """Return the entries and, behind them, the payloads."""
    entries = b"".join(_ENTRY.pack(mode, len(payload)) for mode, payload in coded)
    return b"".join((entries, *(payload for _, payload in coded)))


def _encode(plane: Bytes, effort: Effort) -> _Coded:
    """Return mode and payload of one plane."""
    if len(plane) and plane[0] == plane[-1] and (plane == plane[0]).all():
        return _CONSTANT, plane[:1].data
    raw: _Coded = _RAW, plane.data
    return min([raw, *(_by_plan(plane, plan) for plan in plans(plane, effort))], key=lambda coded: len(coded[1]))


def _by_plan(plane: Bytes, plan: Plan) -> _Coded:
    """Return mode and payload of one plane, coded in one way."""
    if not plan.apart:
        return _ZSTD, zstd.compress(plane, plan.effort)
    bits, rest = np.packbits(plane & 1, bitorder="little"), plane >> np.uint8(1)
    return _APART, _laid_out([_part(bits, plan.effort), _part(rest, plan.effort)])


def _part(part: Bytes, effort: Effort) -> _Coded:
    """Return mode and payload of the lowest bits of a plane, or of its other bits."""
    if (part == part[0]).all():
        return _CONSTANT, part[:1].data
    found = zstd.compress(part, effort)
    return (_ZSTD, found) if len(found) < len(part) else (_RAW, part.data)


def decode_planes(stored: memoryview, count: int, size: int) -> list[Buffer]:
    """Return `count` planes of `size` bytes each.

    Parameters
    ----------
    stored : memoryview, uint8
        Exactly what `encode_planes` returned; untrusted. Planes may refer to it.
    count, size : int
        P and N.

    Raises
    ------
    MalformedError
        If `stored` does not follow the specification. Lengths are checked before anything is decoded.
    """
    return [_decode(mode, payload, size) for mode, payload in _parts(stored, count)]


def _parts(stored: memoryview, count: int) -> list[tuple[int, memoryview]]:
    """Return mode and payload of `count` planes."""
    start = count * ENTRY_BYTES
    if len(stored) < start:
        raise MalformedError(f"{count} coded planes need {start} bytes of entries; there are {len(stored)} bytes")
    entries = [_ENTRY.unpack_from(stored, i * ENTRY_BYTES) for i in range(count)]
    total = start + sum(length for _, length in entries)
    if total != len(stored):
        raise MalformedError(f"coded planes state {total} bytes; there are {len(stored)}")
    ends = list(accumulate((length for _, length in entries), initial=start))
    return [(mode, stored[a:b]) for (mode, _), (a, b) in zip(entries, pairwise(ends), strict=True)]


def _decode(mode: int, payload: memoryview, size: int) -> Buffer:
    if mode == _APART and len(payload) < size:
        return _decode_apart(payload, size)
    return _decode_simple(mode, payload, size)


def _decode_simple(mode: int, payload: memoryview, size: int) -> Buffer:
    """Return a plane, or a part of one, that has no parts."""
    if mode == _RAW and len(payload) == size:
        return payload
    if mode == _CONSTANT and len(payload) == 1 and size:
        return bytes(payload) * size
    if mode == _ZSTD and len(payload) < size:
        return zstd.decompress(payload, size)
    raise MalformedError(f"plane of {size} bytes has mode {mode} and {len(payload)} stored bytes")


def _decode_apart(payload: memoryview, size: int) -> Buffer:
    """Return the plane whose lowest bits are stored apart."""
    (bits_mode, bits_payload), (rest_mode, rest_payload) = _parts(payload, 2)
    bits = np.frombuffer(_decode_simple(bits_mode, bits_payload, -(-size // 8)), dtype=np.uint8)
    rest = np.frombuffer(_decode_simple(rest_mode, rest_payload, size), dtype=np.uint8)
    if rest.max() > _MOST_REST or (size % 8 and bits[-1] >> size % 8):
        raise MalformedError(f"plane of {size} bytes with its lowest bits apart has bits set that belong to no byte")
    return (rest << 1 | np.unpackbits(bits, count=size, bitorder="little")).data
