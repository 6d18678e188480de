"""Words in the order of a key that the decoder knows: what `sorted-delta` and `sorted-planes` have in common.

A frame is the coded planes of the row bytes behind their stored length, and then those of the sorted words (spec-v1,
section 6.4).
"""

from __future__ import annotations

import struct
from typing import Final

from mvc.codecs import kernels, workspace
from mvc.codecs.abc import Bytes, FrameSpec
from mvc.codecs.kernels import Buffer
from mvc.codecs.keyed import row_count
from mvc.codecs.plane_choice import Way
from mvc.codecs.plane_coding import decode_planes, encode_planes
from mvc.errors import MalformedError

__all__ = ["decode_sorted", "encode_sorted"]

_LENGTH: Final = struct.Struct("<I")


def encode_sorted(words: Bytes, side: Bytes, rows: Bytes, mantissa: int, spec: FrameSpec) -> bytes:
    """Return the stored frame of `words`, taken in the order of the key that `side`, `rows` and `mantissa` make.

    Parameters
    ----------
    words, side : Bytes, shape (spec.nbytes,)
        What is stored, and what the decoder will have.
    rows : Bytes, shape (row_count(spec),)
        Row bytes.
    mantissa : int
        Leading mantissa bits of `side` in the key.
    spec : FrameSpec
        Of the frame.
    """
    number = kernels.number_of(spec.dtype)
    planes = list(workspace.array("planes", spec.nbytes).reshape(spec.dtype.word_bytes, spec.words))
    scratch = workspace.array("scratch", kernels.scratch_bytes(number, spec.words))
    kernels.active.sort(words, side, number, rows, min(spec.row_words, spec.words), mantissa, planes, scratch)
    scales = encode_planes([rows], skewed=Way.LITERALS)
    return kernels.active.concatenate((_LENGTH.pack(len(scales)), scales, encode_planes(planes, skewed=Way.DRIFTING)))


def decode_sorted(stored: bytes | memoryview, spec: FrameSpec) -> tuple[Buffer, list[Buffer]]:
    """Return the row bytes and the planes of the sorted words, from what `encode_sorted` returned.

    Raises
    ------
    MalformedError
        If `stored` does not follow the specification. Lengths are checked before anything is decoded.
    """
    scales, body = _halves(memoryview(stored))
    (rows,) = decode_planes(scales, 1, row_count(spec))
    return rows, decode_planes(body, spec.dtype.word_bytes, spec.words)


def _halves(stored: memoryview) -> tuple[memoryview, memoryview]:
    """Return the coded row bytes and the coded planes of a frame."""
    if len(stored) < _LENGTH.size:
        raise MalformedError(f"sorted frame has {len(stored)} bytes; at least {_LENGTH.size} are needed")
    (length,) = _LENGTH.unpack_from(stored)
    end = _LENGTH.size + length
    if end > len(stored):
        raise MalformedError(f"row bytes end at {end}; the sorted frame has {len(stored)} bytes")
    return stored[_LENGTH.size : end], stored[end:]
