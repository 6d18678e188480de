"""Coded planes (spec-v1, section 6.2): several byte strings of one length, each stored in the mode that suits it.

Layout: for each plane u8 mode and u32 length, then the payloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mvc.codecs import zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Buffer
from mvc.codecs.plane_choice import IN_ORDER, Way, ways
from mvc.codecs.plane_parts import CONSTANT, RAW, ZSTD, Coded, cut, decode_part, encode_part, laid_out
from mvc.codecs.stripes import decode_stripes, encode_stripes
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

__all__ = ["decode_planes", "encode_planes"]

_APART: Final = 3
_ENTROPY: Final = 4

_LONG: Final = 1 << 16
"""Bytes of a plane that holds whole words from which more is tried: records, which save less in fewer than looking for
them is worth, and Huffman codes, as of quantized weights most of the 256 values are rarer than a probability can be."""

_MOST_REST: Final = 127
"""The largest byte whose lowest bit was taken away."""


def encode_planes(planes: Sequence[Bytes], row: int = 0, skewed: Way = IN_ORDER) -> bytes:
    """Return the coded planes.

    Parameters
    ----------
    planes : sequence of Bytes, each shape (N,)
        Not modified.
    row : int
        Bytes of a plane whose distribution may differ from that of the next as many: those of a row; 0 if there are
        none.
    skewed : Way
        How to code planes without repeats: `Way.DRIFTING` for sorted words, `Way.LITERALS` for what is so short that a
        better coder would take time and gain nothing.

    Returns
    -------
    bytes
        At most ``P * (N + ENTRY_BYTES)`` of them.
    """
    return laid_out([_encode(plane, row, skewed, whole=len(planes) == 1) for plane in planes])


def _encode(plane: Bytes, row: int, skewed: Way, *, whole: bool) -> Coded:
    """Return mode and payload of one plane; `whole` if it is all that the words have."""
    long = whole and len(plane) >= _LONG
    found = ways(plane, skewed) if len(plane) else []
    if found is None:
        return CONSTANT, plane[:1].data
    if long and Way.STRIPES in found:
        found = [*found, Way.LITERALS]
    raw: Coded = RAW, plane.data
    return min([raw, *(_coded(plane, way, row, records=long) for way in found)], key=lambda coded: len(coded[1]))


def _coded(plane: Bytes, way: Way, row: int, *, records: bool) -> Coded:
    """Return mode and payload of one plane, coded in one way."""
    match way:
        case Way.STRIPES:
            return _ENTROPY, encode_stripes(plane, row, records=records)
        case Way.APART:
            bits, rest = np.packbits(plane & 1, bitorder="little"), plane >> np.uint8(1)
            return _APART, laid_out([encode_part(bits), encode_part(rest)])
        case Way.REPEATS:
            return ZSTD, zstd.compress(plane, Effort.REPEATS)
        case Way.LITERALS:
            return ZSTD, zstd.compress(plane, Effort.LITERALS)
        case Way.DRIFTING:
            return ZSTD, zstd.compress(plane, Effort.DRIFTING)


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
    return [_decode(mode, memoryview(payload), size) for mode, payload in cut(stored, count)]


def _decode(mode: int, payload: memoryview, size: int) -> Buffer:
    if mode == _APART and len(payload) < size:
        return _decode_apart(payload, size)
    if mode == _ENTROPY and len(payload) < size:
        return decode_stripes(payload, size)
    return decode_part(mode, payload, size)


def _decode_apart(payload: memoryview, size: int) -> Buffer:
    """Return the plane whose lowest bits are stored apart."""
    low, high = cut(payload, 2)
    bits = np.frombuffer(decode_part(*low, -(-size // 8)), dtype=np.uint8)
    rest = np.frombuffer(decode_part(*high, size), dtype=np.uint8)
    if rest.max() > _MOST_REST or (size % 8 and bits[-1] >> size % 8):
        raise MalformedError(f"plane of {size} bytes with its lowest bits apart has bits set that belong to no byte")
    return (rest << 1 | np.unpackbits(bits, count=size, bitorder="little")).data
