"""A matrix of integers, mostly small ones, of which lines resemble each other (spec-v1, section 6.10, foretold codes).

What the lines before say of a symbol, its size and its sign, names the table that it is coded by: a fine-tune moves the
weights of a layer in few directions, so that rows of its delta are alike or opposite, even where most codes are 0.
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
from mvc.codecs.context_tables import tables_of, unstored_levels
from mvc.codecs.step_symbols import CLASSES, MOST_WEIGHT, SYMBOLS, codes_of, magnitudes_of, raw_bits, symbols_of
from mvc.codecs.step_tables import pack_levels, unpack_levels
from mvc.codecs.stripes import frequencies_from
from mvc.errors import MalformedError
from mvc.types.steps import Codes

__all__ = ["decode_foretold", "encode_foretold", "worth_foretelling"]

_HEAD: Final = struct.Struct("<BBBHIB")
"""Axis and lanes, first symbol, symbols - 1, mean weight, and where contexts begin: classes of scale, of certainty."""

_CERTAINTIES: Final = 8
"""Classes of certainty."""

_UNIT: Final = 1024
"""Units of a mean weight in a weight."""

_BYTES: Final = 256
"""Columns of a table, as the kernels have them."""

_BYTES_A_LANE: Final = 1000
"""Coded bytes for each lane, whose state costs two: 0.2 %."""

_MOST_POSITIONS: Final = 1 << 18
"""Of a line, as the kernels have them."""

_MOST_LOG_LANES: Final = 7
"""More gave no more speed to planes, compiled (`lanes`)."""

Integers = npt.NDArray[np.int64]

_ENTRY_BITS: Final = 6
"""What a table takes for each symbol that occurs: with 3 to 8 MiniLM is 0.2 % larger at most, from 0.2 to 0.6 bits an
element."""

_MOST_MAGNITUDE: Final = 4
"""Mean of the magnitudes of codes above which they are not foretold: MiniLM is 7 % smaller at 2.8 bits an element, but
0.5 % at 5.4, and decoding takes three times as long."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to code a matrix along one axis.

    Parameters
    ----------
    axis : int
        0: lines are rows; 1: they are columns.
    mean : int
        The mean weight, in units.
    classes, turned : Bytes, shape (symbols,)
        The class and the turned symbol of each, in the order of coding.
    scales, certainties : int
        Bit q is set if a context begins with class q.
    counts : array, shape (contexts, 256)
        How often each turned symbol occurs in each context.
    bits : float
        About what it takes.
    """

    axis: int
    mean: int
    classes: Bytes
    turned: Bytes
    scales: int
    certainties: int
    counts: Integers
    bits: float


def worth_foretelling(codes: Codes) -> bool:
    """Return whether lines of a matrix are likely to tell of each other: there are several, and signs say much."""
    return 1 not in codes.shape and float(np.minimum(np.abs(codes), MOST_WEIGHT).mean()) <= _MOST_MAGNITUDE


def encode_foretold(codes: Codes) -> bytes:
    """Return the stored bytes of a matrix.

    Parameters
    ----------
    codes : Codes, shape (R, C)
        At most `mvc.types.steps.LARGEST_CODE` in magnitude.
    """
    magnitudes = magnitudes_of(codes)
    symbols = symbols_of(magnitudes)
    axis = _axis(symbols)
    plan = _plan(symbols.T if axis else symbols, axis)
    tables = tables_of(plan.counts.astype(np.uint32), trimmed=True)
    levels = unstored_levels(tables.stored, len(plan.counts))
    contexts = _contexts(plan.scales, plan.certainties)
    log_lanes = min(_MOST_LOG_LANES, max(1, int(plan.bits / 8) // _BYTES_A_LANE).bit_length() - 1)
    states, refills = np.empty(1 << log_lanes, dtype=np.uint32), np.empty(symbols.size + 1, dtype=np.uint16)
    used = kernels.active.stripe_encode(plan.turned, 1, contexts[plan.classes], tables.frequencies, states, refills)
    head = _HEAD.pack(
        plan.axis | log_lanes << 1, tables.first, tables.symbols - 1, plan.mean, plan.scales, plan.certainties
    )
    packed = pack_levels(levels, plan.certainties.bit_count() + 1)
    return b"".join((head, packed, states.tobytes(), refills[:used].tobytes(), raw_bits(magnitudes, symbols)))


def _axis(symbols: Bytes) -> int:
    """Return 0 if the sizes of symbols differ more from column to column, 1 if from row to row."""
    if max(symbols.shape) > _MOST_POSITIONS:
        return int(symbols.shape[1] > _MOST_POSITIONS)
    weights = np.minimum(symbols, MOST_WEIGHT)
    bits = [_bits_of_means(weights.mean(axis=axis)) for axis in (0, 1)]
    return int(bits[1] < bits[0])


def _bits_of_means(means: npt.NDArray[np.float64]) -> float:
    """Return the bits of a symbol of the mean stripe, if those of each are distributed geometrically."""
    some = means[means > 0]
    return float(((1 + some) * np.log2(1 + some) - some * np.log2(some)).sum()) / len(means)


def _plan(symbols: Bytes, axis: int) -> _Plan:
    """Find classes and contexts of symbols whose lines are rows."""
    mean = int(np.minimum(symbols, MOST_WEIGHT).sum(dtype=np.int64) * _UNIT // symbols.size)
    classes, turned = (np.empty(symbols.size, dtype=np.uint8) for _ in range(2))
    lines = np.ascontiguousarray(symbols).reshape(-1)
    kernels.active.foretell(lines, symbols.shape[1], mean, classes, turned)
    both = np.bincount(classes.astype(np.int64) << 8 | turned, minlength=CLASSES * _CERTAINTIES * _BYTES)
    counts = both.reshape(CLASSES, _CERTAINTIES, _BYTES)
    occurring = np.flatnonzero(counts.any(axis=(0, 1)))
    scales, merged = _merged(counts[:, :, occurring])
    certainties, merged = _merged(merged.swapaxes(0, 1))
    merged = merged.swapaxes(0, 1).reshape(-1, len(occurring))
    bits = float(_bits_of(merged).sum())
    counts = np.zeros((len(merged), _BYTES), dtype=np.int64)
    counts[:, occurring] = merged
    return _Plan(axis, mean, classes, turned, scales, certainties, counts, bits)


def _bits_of(counts: Integers) -> npt.NDArray[np.float64]:
    """Return the bits of symbols that are coded by one table, and of the table; for each of the leading dimensions."""
    totals = counts.sum(axis=-1)
    coded = totals * np.log2(np.maximum(totals, 1)) - (counts * np.log2(np.maximum(counts, 1))).sum(axis=-1)
    bits: npt.NDArray[np.float64] = coded + _ENTRY_BITS * np.count_nonzero(counts, axis=-1)
    return bits


def _merged(counts: Integers) -> tuple[int, Integers]:
    """Join neighbouring classes until each pays for its tables; return where contexts begin, and their counts.

    Parameters
    ----------
    counts : array, shape (classes, contexts of each, symbols)
        How often each symbol occurs.
    """
    used = np.flatnonzero(counts.any(axis=(1, 2)))
    starts, parts = used.tolist(), list(counts[used])
    alone = [_bits_of(part).sum() for part in parts]
    both = [_bits_of(a + b).sum() for a, b in pairwise(parts)]
    while both:
        gains = [a + b - joined for (a, b), joined in zip(pairwise(alone), both, strict=True)]
        best = int(np.argmax(gains))
        if gains[best] < 0:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
        alone[best : best + 2] = [both[best]]
        del both[best], starts[best + 1]
        for i in {best - 1, best} & set(range(len(both))):
            both[i] = _bits_of(parts[i] + parts[i + 1]).sum()
    return sum(1 << start for start in starts[1:]), np.stack(parts)


def _contexts(scales: int, certainties: int) -> Bytes:
    """Return the context of each class, scale by scale."""
    of_scales, of_certainties = (
        np.cumsum([mask >> k & 1 for k in range(classes)])
        for mask, classes in ((scales, CLASSES), (certainties, _CERTAINTIES))
    )
    contexts: Bytes = (of_scales[:, None] * (of_certainties[-1] + 1) + of_certainties).astype(np.uint8).reshape(-1)
    return contexts


def decode_foretold(stored: memoryview, shape: tuple[int, int]) -> Codes:
    """Return the matrix of `shape` that `encode_foretold` was given.

    Raises
    ------
    MalformedError
        If `stored`, which is untrusted, does not follow the specification. Lengths are checked before anything is
        decoded.
    """
    if len(stored) < _HEAD.size:
        raise MalformedError(f"foretold codes have {len(stored)} bytes; at least {_HEAD.size} are needed")
    way, first, symbols, mean, scales, certainties = _HEAD.unpack_from(stored)
    if (
        way >> 1 > _MOST_LOG_LANES
        or first + symbols >= SYMBOLS
        or mean > _UNIT * MOST_WEIGHT
        or (scales | certainties) & 1
        or scales >> CLASSES
        or shape[1 - (way & 1)] > _MOST_POSITIONS
    ):
        raise MalformedError(
            f"foretold codes have axis and lanes {way}, {symbols + 1} symbols from {first} on, mean weight {mean}, "
            f"contexts {scales:#x} and {certainties:#x}, and are {shape[0]} rows and {shape[1]} columns"
        )
    contexts, groups = _contexts(scales, certainties), certainties.bit_count() + 1
    levels, rest = unpack_levels(stored[_HEAD.size :], int(contexts[-1]) + 1, symbols + 1, groups)
    states, rest = rest[: 4 << (way >> 1)], rest[4 << (way >> 1) :]
    if len(states) != 4 << (way >> 1):
        raise MalformedError(f"foretold codes have {len(states)} bytes of states")
    return _decoded(way & 1, shape, mean, contexts, frequencies_from(first, levels), states, rest)


def _decoded(
    axis: int,
    shape: tuple[int, int],
    mean: int,
    contexts: Bytes,
    frequencies: kernels.Frequencies,
    states: memoryview,
    rest: memoryview,
) -> Codes:
    """Return the codes, whose renormalisation values `rest` begins with; raw bits follow."""
    lines, positions = shape[::-1] if axis else shape
    symbols = np.empty(lines * positions, dtype=np.uint8)
    coder = np.frombuffer(states, dtype="<u4").copy()
    refills = np.frombuffer(rest[: len(rest) & ~1], dtype="<u2").copy()  # aligned, which stored bytes need not be
    used = kernels.active.foretold_decode(positions, mean, contexts, frequencies, coder, refills, symbols)
    if used < 0:
        raise MalformedError("foretold codes end before their renormalisation values do, or otherwise than they began")
    matrix = symbols.reshape(lines, positions)
    return codes_of(np.ascontiguousarray(matrix.T) if axis else matrix, rest[2 * used :])
