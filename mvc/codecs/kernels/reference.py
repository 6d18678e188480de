"""The kernels in NumPy: they define the bytes, and run where no compiled kernels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import ROW_BLOCK, Buffer, Number, RowSizes, scratch_bytes
from mvc.codecs.kernels.context_reference import classify, context_decode, context_encode, count_keys
from mvc.codecs.kernels.foretell_reference import foretell, foretold_decode
from mvc.codecs.kernels.sparse_reference import changes, exponent, gaps, locate, pack, patch, unpack
from mvc.codecs.kernels.stripes_reference import stripe_decode, stripe_encode
from mvc.codecs.kernels.survey_reference import stripe_plan, survey
from mvc.codecs.kernels.tables_reference import frequencies, tables
from mvc.codecs.kernels.words import (
    UNSIGNED,
    bit_lengths,
    check,
    check_frame,
    exponents,
    forward,
    inverse,
    keys_of,
    stable_order,
    words_of,
)

__all__ = [
    "changes",
    "classify",
    "concatenate",
    "context_decode",
    "context_encode",
    "count_keys",
    "exponent",
    "foretell",
    "foretold_decode",
    "frequencies",
    "gaps",
    "join",
    "locate",
    "measure",
    "pack",
    "patch",
    "sort",
    "split",
    "stripe_decode",
    "stripe_encode",
    "stripe_plan",
    "survey",
    "tables",
    "unpack",
    "unsort",
]

_LEAST: Final = 40
"""Half powers of two below the largest change of a row from which a change weighs nothing: 2**16 >> 20 is 0."""


def _check_planes(planes: Sequence[Buffer], words: Buffer) -> None:
    check(len(planes) in UNSIGNED, "there must be 1, 2, 4 or 8 planes")
    sizes = {len(plane) for plane in planes}
    check(len(sizes) == 1, "planes differ in length")
    check(sizes.pop() * len(planes) == len(words), "planes and words differ in size")


def split(words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None:  # noqa: FBT001
    """Write byte k of every word into ``planes[k]``, after turning words left by one bit if `rotate`."""
    _check_planes(planes, words)
    w = words_of(words, len(planes))
    if rotate:
        w = (w << 1) | (w >> (8 * len(planes) - 1))
    columns = w.view(np.uint8).reshape(-1, len(planes))
    for k, plane in enumerate(planes):
        plane[:] = columns[:, k]


def join(planes: Sequence[Buffer], words: Bytes, rotate: bool, /) -> None:  # noqa: FBT001
    """Undo `split`."""
    _check_planes(planes, words)
    columns = words.reshape(-1, len(planes))
    for k, plane in enumerate(planes):
        columns[:, k] = np.frombuffer(plane, dtype=np.uint8)
    if rotate:
        w = words.view(UNSIGNED[len(planes)])
        w[:] = (w >> 1) | (w << (8 * len(planes) - 1))


def concatenate(pieces: Sequence[Buffer], /) -> bytes:
    """Return the bytes of all pieces, one after the other."""
    parts = [np.frombuffer(piece, dtype=np.uint8) for piece in pieces]
    return np.concatenate([np.empty(0, dtype=np.uint8), *parts]).tobytes()


def measure(
    target: Bytes, base: Bytes, number: Number, row_words: int, measured: int, deltas: Bytes, sizes: RowSizes, /
) -> None:
    """Write the zigzag deltas of a frame and how large they are, row by row (`Kernels.measure`)."""
    check_frame(number, len(target), row_words, len(sizes), 0)
    check(len(base) == len(target) == len(deltas), "target, base and deltas differ in size")
    check(0 <= measured <= ROW_BLOCK, "more than all words are measured")
    b = words_of(base, number.word_bytes)
    u = forward(words_of(target, number.word_bytes), b, is_float=number.exponent_bits > 0)
    deltas.view(u.dtype)[:] = u
    if measured == 0:
        sizes[:] = 0
        return
    if measured < ROW_BLOCK:
        u[np.arange(len(u)) % row_words % ROW_BLOCK >= measured] = 0
    starts = np.arange(0, len(u), row_words)
    each = bit_lengths(u).astype(np.int16)
    if number.exponent_bits:
        each += exponents(b, number).astype(np.int16) * (u != 0)
    top = np.maximum.reduceat(each, starts)
    below = top.repeat(row_words)[: len(u)]
    below -= each
    below[u == 0] = _LEAST
    del each
    np.minimum(below, _LEAST, out=below)
    weights = np.where(below & 1, np.int64(46341), np.int64(65536))  # what the sums need, not widened once more
    below >>= 1
    weights >>= below
    sizes[:, 0] = top
    sizes[:, 1] = np.add.reduceat(weights, starts)


def sort(
    deltas: Bytes,
    base: Bytes,
    number: Number,
    rows: Bytes,
    row_words: int,
    mantissa: int,
    planes: Sequence[Bytes],
    scratch: Bytes,
    /,
) -> None:
    """Write the planes of `deltas` in stable order of the key (`Kernels.sort`)."""
    check_frame(number, len(base), row_words, len(rows), mantissa)
    check(len(deltas) == len(base) and len(planes) == number.word_bytes, "deltas, base and planes differ in size")
    check(len(scratch) >= scratch_bytes(number, len(base) // number.word_bytes), "scratch memory is too small")
    keys = keys_of(words_of(base, number.word_bytes), number, rows, row_words, mantissa)
    order = stable_order(keys)
    split(words_of(deltas, number.word_bytes)[order].view(np.uint8), planes, False)


def unsort(
    planes: Sequence[Buffer],
    base: Bytes,
    number: Number,
    rows: Buffer,
    row_words: int,
    mantissa: int,
    target: Bytes,
    scratch: Bytes,
    /,
) -> None:
    """Undo `sort` and then `measure` (`Kernels.unsort`)."""
    check_frame(number, len(base), row_words, len(rows), mantissa)
    check(len(target) == len(base) and len(planes) == number.word_bytes, "planes, base and target differ in size")
    check(len(scratch) >= scratch_bytes(number, len(base) // number.word_bytes), "scratch memory is too small")
    b = words_of(base, number.word_bytes)
    order = stable_order(keys_of(b, number, rows, row_words, mantissa))
    ordered = np.empty(len(base), dtype=np.uint8)
    join(planes, ordered, False)
    u = np.empty_like(b)
    u[order] = ordered.view(b.dtype)
    target.view(b.dtype)[:] = inverse(u, b, is_float=number.exponent_bits > 0)
