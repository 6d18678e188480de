"""Coded planes (spec-v1, section 6.2): several byte strings of one length, each stored in the mode that suits it.

Layout: for each plane u8 mode and u32 length, then the payloads.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from mvc.codecs import zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.kernels import Buffer
from mvc.codecs.zstd import Effort
from mvc.errors import MalformedError

__all__ = ["ENTRY_BYTES", "decode_planes", "encode_planes"]

_RAW: Final = 0
_CONSTANT: Final = 1
_ZSTD: Final = 2

_ENTRY: Final = struct.Struct("<BI")

ENTRY_BYTES: Final = _ENTRY.size
"""Bytes of the mode and length of one plane; what coding costs when nothing can be gained."""

_CHUNK: Final = 1 << 13
"""Bytes of a sample: long enough for repeats to show, short enough to have one distribution."""

_CHUNKS: Final = 3
"""Samples of a plane. Trying both compressors on them costs about a twentieth of coding a plane of 1 MiB."""

_SMALL: Final = 2 * _CHUNKS * _CHUNK
"""Bytes of a plane that is not worth sampling: everything is tried on the whole of it."""

_NOISE: Final = 0.995
"""Compressed share of the samples above which a plane is stored raw: coding it would cost time and save nothing."""

_REPEATS_GAIN: Final = 0.97
"""Searching for repeats must make the samples this much smaller: it is several times slower."""


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
    coded = [_encode(plane, effort) for plane in planes]
    entries = b"".join(_ENTRY.pack(mode, len(payload)) for mode, payload in coded)
    return b"".join((entries, *(payload for _, payload in coded)))


def _encode(plane: Bytes, effort: Effort) -> tuple[int, bytes | memoryview]:
    """Return mode and payload of one plane."""
    if len(plane) and plane[0] == plane[-1] and (plane == plane[0]).all():
        return _CONSTANT, plane[:1].data
    payload: bytes | memoryview = plane.data
    for choice in _efforts(plane, effort):
        shorter = zstd.compress(plane, choice)
        payload = shorter if len(shorter) < len(payload) else payload
    return (_RAW if len(payload) == len(plane) else _ZSTD), payload


def _efforts(plane: Bytes, effort: Effort) -> list[Effort]:
    """Return the compressors to try on the whole of `plane`."""
    if len(plane) <= _SMALL:
        return [effort, Effort.REPEATS]
    entropy, repeats = _sampled_size(plane, effort), _sampled_size(plane, Effort.REPEATS)
    if repeats < _REPEATS_GAIN * entropy:
        return [Effort.REPEATS]
    return [effort] if entropy < _NOISE * _CHUNKS * _CHUNK else []


def _sampled_size(plane: Bytes, effort: Effort) -> int:
    """Return the compressed bytes of evenly spaced chunks of `plane`.

    Each is compressed by itself: together they would share a Huffman table that suits none of them, and searching for
    repeats would seem to win.
    """
    step = (len(plane) - _CHUNK) // (_CHUNKS - 1)
    return sum(len(zstd.compress(plane[i * step : i * step + _CHUNK], effort)) for i in range(_CHUNKS))


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
    start = count * ENTRY_BYTES
    if len(stored) < start:
        raise MalformedError(f"{count} coded planes need {start} bytes of entries; there are {len(stored)} bytes")
    entries = [_ENTRY.unpack_from(stored, i * ENTRY_BYTES) for i in range(count)]
    total = start + sum(length for _, length in entries)
    if total != len(stored):
        raise MalformedError(f"coded planes state {total} bytes; there are {len(stored)}")
    planes = []
    for mode, length in entries:
        planes.append(_decode(mode, stored[start : start + length], size))
        start += length
    return planes


def _decode(mode: int, payload: memoryview, size: int) -> Buffer:
    if mode == _RAW and len(payload) == size:
        return payload
    if mode == _CONSTANT and len(payload) == 1 and size:
        return bytes(payload) * size
    if mode == _ZSTD and len(payload) < size:
        return zstd.decompress(payload, size)
    raise MalformedError(f"plane of {size} bytes has mode {mode} and {len(payload)} stored bytes")
