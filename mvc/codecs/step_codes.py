"""A matrix of integers, mostly small ones, as bytes: what `step-delta` stores (spec-v1, section 6.10).

Each symbol is coded by a table that follows from the size of the symbols of its column, or row, so far. So what differs
from column to column costs nothing to state.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import kernels
from mvc.codecs.abc import Bytes
from mvc.codecs.context_tables import Tables, tables_of, unstored_levels
from mvc.codecs.kernels import Frequencies
from mvc.codecs.plane_parts import cut_off, decode_part, encode_part, laid_out
from mvc.codecs.records import bits_of_each
from mvc.codecs.step_symbols import CLASSES, MOST_WEIGHT, SYMBOLS, codes_of, magnitudes_of, raw_bits, symbols_of
from mvc.codecs.stripes import frequencies_from
from mvc.errors import MalformedError
from mvc.types.steps import Codes

__all__ = ["decode_codes", "encode_codes"]

Integers = npt.NDArray[np.int64]

_HEAD: Final = struct.Struct("<BBBHI")
"""Axis, first symbol, symbols - 1, mean weight, the classes with which a context begins."""

_BLOCK: Final = struct.Struct("<I")
"""Binary logarithm of the lanes in the four lowest bits, above them the renormalisation values."""

_FIRST_BLOCK: Final = 8
"""Lines of the first block. Each further one is as long as all before it: with 384 lines, 7 blocks."""

_UNIT: Final = 1024
"""Units of a mean weight in a weight."""

_PRIOR: Final = 4
"""Symbols of mean weight with which each stripe begins."""

_BYTES: Final = 256
"""Columns of a table, as the kernels have them."""

_BYTES_A_LANE: Final = 1000
"""Coded bytes of a block for each lane, whose state costs two: 0.2 %."""

_MOST_LOG_LANES: Final = 7
"""More gave no more speed to planes, compiled (`lanes`)."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to code a matrix along one axis.

    Parameters
    ----------
    axis : int
        0: stripes are columns, blocks are ranges of rows; 1: the other way round.
    mean : int
        The mean weight, in units.
    classes : Bytes, shape (blocks, stripes)
        The class of each stripe of each block.
    starts : tuple of int
        The classes with which a context begins, but for the first.
    counts : array, shape (contexts, 256)
        How often each symbol occurs in each context.
    bits : float
        About what it takes.
    """

    axis: int
    mean: int
    classes: Bytes
    starts: tuple[int, ...]
    counts: Integers
    bits: float


def encode_codes(codes: Codes) -> bytes:
    """Return the stored bytes of a matrix.

    Parameters
    ----------
    codes : Codes, shape (R, C)
        At most `mvc.types.steps.LARGEST_CODE` in magnitude.
    """
    magnitudes = magnitudes_of(codes)
    symbols = symbols_of(magnitudes)
    plan = min((_plan(symbols, 0), _plan(symbols.T, 1)), key=lambda plan: plan.bits)
    tables = tables_of(plan.counts.astype(np.uint32), trimmed=True)
    starts = sum(1 << start for start in plan.starts)
    head = _HEAD.pack(plan.axis, tables.first, tables.symbols - 1, plan.mean, starts)
    blocks = _encode_blocks(symbols.T if plan.axis else symbols, plan, tables)
    return b"".join((head, laid_out([encode_part(tables.stored)]), *blocks, raw_bits(magnitudes, symbols)))


def _ends(length: int) -> list[int]:
    """Return where the blocks of so many lines begin and end.

    Examples
    --------
    >>> _ends(100), _ends(3)
    ([0, 8, 16, 32, 64, 100], [0, 3])
    """
    ends = [0]
    while ends[-1] < length:
        ends.append(min(length, max(_FIRST_BLOCK, 2 * ends[-1])))
    return ends


def _plan(symbols: Bytes, axis: int) -> _Plan:
    """Find classes and contexts of symbols whose stripes are columns."""
    ends = _ends(len(symbols))
    weights = np.add.reduceat(np.minimum(symbols, MOST_WEIGHT), ends[:-1], axis=0, dtype=np.int64)
    mean = int(weights.sum() * _UNIT // symbols.size)
    before = np.cumsum(weights, axis=0) - weights
    classes = np.stack([_classes(sums, lines, mean) for sums, lines in zip(before, ends, strict=False)])
    places = classes.astype(np.int16).repeat(np.diff(ends), axis=0) * _BYTES + symbols
    counts = np.bincount(places.reshape(-1), minlength=CLASSES * _BYTES).reshape(CLASSES, _BYTES)
    starts, merged = _merged(counts)
    return _Plan(axis, mean, classes, starts, merged, float(bits_of_each(merged).sum()))


def _classes(sums: Integers, lines: int, mean: int) -> Bytes:
    """Return the class of each stripe, of whose first `lines` symbols the weights have these sums."""
    means = (_UNIT * sums + _PRIOR * mean) // (lines + _PRIOR)
    classes: Bytes = np.frexp((means * means).astype(np.float64))[1].astype(np.uint8)
    return classes


def _merged(counts: Integers) -> tuple[tuple[int, ...], Integers]:
    """Give neighbouring classes one context until each table pays; return where contexts begin, and their counts."""
    used = np.flatnonzero(counts.any(axis=1))
    starts, counts = used.tolist(), counts[used]
    while len(starts) > 1:
        bits, joined = bits_of_each(counts), counts[:-1] + counts[1:]
        gains = bits[:-1] + bits[1:] - bits_of_each(joined)
        best = int(np.argmax(gains))
        if gains[best] < 0:
            break
        counts[best] = joined[best]
        counts = np.delete(counts, best + 1, axis=0)
        del starts[best + 1]
    return tuple(starts[1:]), counts


def _contexts(starts: int) -> Bytes:
    """Return the context of each class."""
    begins = np.array([starts >> k & 1 for k in range(CLASSES)], dtype=np.uint8)
    contexts: Bytes = np.cumsum(begins, dtype=np.uint8)
    return contexts


def _encode_blocks(symbols: Bytes, plan: _Plan, tables: Tables) -> list[bytes]:
    """Return the stored bytes of each block."""
    of_class = _contexts(sum(1 << start for start in plan.starts))
    bytes_a_symbol = plan.bits / 8 / symbols.size
    blocks = []
    for (start, end), classes in zip(pairwise(_ends(len(symbols))), plan.classes, strict=True):
        plane = np.ascontiguousarray(symbols[start:end].T).reshape(-1)
        lanes = int(bytes_a_symbol * len(plane)) // _BYTES_A_LANE
        log_lanes = min(_MOST_LOG_LANES, max(1, lanes).bit_length() - 1)
        states, refills = np.empty(1 << log_lanes, dtype=np.uint32), np.empty(len(plane) + 1, dtype=np.uint16)
        used = kernels.active.stripe_encode(plane, end - start, of_class[classes], tables.frequencies, states, refills)
        blocks.append(_BLOCK.pack(log_lanes | used << 4) + states.tobytes() + refills[:used].tobytes())
    return blocks


def decode_codes(stored: memoryview, shape: tuple[int, int]) -> Codes:
    """Return the matrix of `shape` that `encode_codes` was given.

    Raises
    ------
    MalformedError
        If `stored`, which is untrusted, does not follow the specification. Lengths are checked before anything is
        decoded.
    """
    if len(stored) < _HEAD.size:
        raise MalformedError(f"codes have {len(stored)} bytes; at least {_HEAD.size} are needed")
    axis, first, symbols, mean, starts = _HEAD.unpack_from(stored)
    if axis > 1 or first + symbols >= SYMBOLS or mean > _UNIT * MOST_WEIGHT or starts & 1 or starts >> CLASSES:
        raise MalformedError(
            f"codes have axis {axis}, {symbols + 1} symbols from {first} on, mean weight {mean}, contexts {starts:#x}"
        )
    of_class = _contexts(starts)
    contexts = int(of_class[-1]) + 1
    (part,), rest = cut_off(stored[_HEAD.size :], 1)
    levels = unstored_levels(np.frombuffer(decode_part(*part, contexts * (symbols + 1)), np.uint8), contexts)
    frequencies = frequencies_from(first, levels)
    matrix = np.empty(shape, dtype=np.uint8)
    rest = _decode_blocks(rest, matrix.T if axis else matrix, mean, of_class, frequencies)
    return codes_of(matrix, rest)


def _decode_blocks(
    stored: memoryview, symbols: Bytes, mean: int, of_class: Bytes, frequencies: Frequencies
) -> memoryview:
    """Write symbols whose stripes are columns; return what follows the blocks."""
    sums = np.zeros(symbols.shape[1], dtype=np.int64)
    for start, end in pairwise(_ends(len(symbols))):
        contexts = of_class[_classes(sums, start, mean)]
        plane, stored = _decode_block(stored, end - start, contexts, frequencies)
        symbols[start:end] = plane.reshape(len(sums), -1).T
        sums += np.minimum(symbols[start:end], MOST_WEIGHT).sum(axis=0, dtype=np.int64)
    return stored


def _decode_block(
    stored: memoryview, lines: int, contexts: Bytes, frequencies: Frequencies
) -> tuple[Bytes, memoryview]:
    """Return the symbols of a block, stripe by stripe, and what follows it."""
    size = lines * len(contexts)
    head = _BLOCK.unpack_from(stored)[0] if len(stored) >= _BLOCK.size else 0
    lanes, used = 1 << (head & 15), head >> 4
    end = _BLOCK.size + 4 * lanes + 2 * used
    if lanes > 1 << _MOST_LOG_LANES or used > size or end > len(stored):
        raise MalformedError(
            f"a block of {size} codes has {lanes} lanes and {used} renormalisation values in {len(stored)} bytes"
        )
    states = np.frombuffer(stored[_BLOCK.size : _BLOCK.size + 4 * lanes], dtype="<u4").copy()
    refills = np.frombuffer(stored[_BLOCK.size + 4 * lanes : end], dtype="<u2").copy()  # aligned
    plane: Bytes = np.empty(size, dtype=np.uint8)
    if not kernels.active.stripe_decode(lines, contexts, frequencies, states, refills, plane):
        raise MalformedError("a block of codes does not end where its renormalisation values do")
    return plane, stored[end:]
