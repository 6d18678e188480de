"""The kernels of `sparse-delta` in NumPy (spec-v1, section 6.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import CLASSES, Buffer, Number, Positions
from mvc.codecs.kernels.words import UNSIGNED, Words, check, check_frame, exponents, forward, inverse, words_of

__all__ = ["changes", "exponent", "gaps", "locate", "pack", "patch", "unpack"]

_MAX_EXPONENT: Final = 2047
"""Largest exponent field: that of fp64."""

_MAX_SHIFT: Final = 24
"""Bits; a frame has at most 2**24 words."""

_SKIP: Final = 255
"""The gap byte that goes on."""


def changes(target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int:
    """Find the words of a frame that differ from the base (`Kernels.changes`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(target) == len(base), "target and base differ in size")
    check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    t, b = words_of(target, number.word_bytes), words_of(base, number.word_bytes)
    found = np.flatnonzero(t != b)
    if len(found) > len(positions):
        return -1
    positions[: len(found)] = found
    u = forward(t[found], b[found], is_float=number.exponent_bits > 0)
    deltas.view(u.dtype)[: len(found)] = u - u.dtype.type(1)
    return len(found)


def _classes(b: Words, number: Number, top: int) -> Bytes:
    if not number.exponent_bits:
        return np.zeros(len(b), dtype=np.uint8)
    return np.clip(top - exponents(b, number).astype(np.int16), 0, CLASSES - 1).astype(np.uint8)


def exponent(base: Bytes, number: Number, positions: Positions, step: int, above: int, /) -> int:
    """Return the exponent field of one of every `step`-th changed word (`Kernels.exponent`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(number.exponent_bits > 0, "words without exponents")
    check(step >= 1 and 0 <= above < -(-len(positions) // step), "fewer words are looked at")
    b = words_of(base, number.word_bytes)
    check(int(positions.max()) < len(b), "a position lies beyond the frame")
    return int(np.sort(exponents(b[positions[::step]], number))[-1 - above])


def gaps(
    base: Bytes,
    number: Number,
    top: int,
    positions: Positions,
    deltas: Bytes,
    tally: Positions,
    gaps: Positions,
    ordered: Bytes,
    /,
) -> None:
    """Write the gap of each changed word, and `deltas`, class by class (`Kernels.gaps`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(positions) == len(gaps), "positions and gaps differ in number")
    check(number.word_bytes * len(gaps) == len(deltas) == len(ordered), "positions and deltas differ in number")
    check(tally.shape == (2, CLASSES), "there must be a count and a sum for each class")
    check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    b = words_of(base, number.word_bytes)
    check(not len(positions) or int(positions[-1]) < len(b), "a position lies beyond the frame")
    check(bool((positions[1:] > positions[:-1]).all()), "positions do not ascend")
    every = _classes(b, number, top)
    classes = every[positions]
    tally[0] = np.bincount(classes, minlength=CLASSES)
    for c, part in enumerate(_parts(tally[0])):
        ranks = np.searchsorted(np.flatnonzero(every == c), positions[classes == c])
        gaps[part] = np.diff(ranks, prepend=-1) - 1
        tally[1, c] = gaps[part].sum()
    order = np.argsort(classes, kind="stable")
    ordered.view(b.dtype)[:] = words_of(deltas, number.word_bytes)[order]


def _parts(counts: Positions) -> Iterator[slice]:
    """Return where each class lies among all changed words."""
    return (slice(start, end) for start, end in pairwise(accumulate(counts.tolist(), initial=0)))


def locate(base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /) -> bool:
    """Undo `gaps` (`Kernels.locate`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(counts) == CLASSES and int(counts.sum(dtype=np.int64)) == len(gaps), "counts do not cover the gaps")
    check(len(positions) == len(gaps), "positions and gaps differ in number")
    check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    every = _classes(words_of(base, number.word_bytes), number, top)
    start = 0
    for c, count in enumerate(counts.tolist()):
        members = np.flatnonzero(every == c)
        ranks = np.cumsum(gaps[start : start + count].astype(np.int64) + 1) - 1
        if count and ranks[-1] >= len(members):
            return False
        positions[start : start + count] = members[ranks]
        start += count
    return True


def patch(base: Bytes, number: Number, positions: Positions, deltas: Bytes, target: Bytes, /) -> None:
    """Undo `changes` (`Kernels.patch`)."""
    check_frame(number, len(base), len(base), 1, 0)
    check(len(target) == len(base), "target and base differ in size")
    check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    b, v = words_of(base, number.word_bytes), words_of(deltas, number.word_bytes)
    check(not len(positions) or int(positions.max()) < len(b), "a position lies beyond the frame")
    target[:] = base
    u = v + v.dtype.type(1)
    target.view(b.dtype)[positions] = inverse(u, b[positions], is_float=number.exponent_bits > 0)


def pack(
    gaps: Positions,
    deltas: Bytes,
    counts: Positions,
    shifts: Positions,
    units: Bytes,
    bits: Bytes,
    planes: Sequence[Bytes],
    /,
) -> int:
    """Write the gap bytes, bits and magnitudes of changes class by class (`Kernels.pack`)."""
    _check_packed(gaps, deltas, counts, shifts, bits, planes)
    if not len(gaps):
        return 0
    each = shifts.repeat(counts)
    quotients = gaps >> each
    skips = quotients // _SKIP
    ends = np.cumsum(skips + 1, dtype=np.int64) - 1
    used = int(ends[-1]) + 1
    check(used <= len(units), "there is no room for all gap bytes")
    units[:used] = _SKIP
    units[ends] = quotients - skips * _SKIP
    words = words_of(deltas, len(planes))
    lows = [_low_bits(gaps[part], shift) for part, shift in zip(_parts(counts), shifts.tolist(), strict=True)]
    bits[:] = np.packbits(np.concatenate([*lows, (words & 1).astype(np.uint8)]), bitorder="little")
    for k, plane in enumerate(planes):
        plane[:] = (words >> (8 * k + 1)).astype(np.uint8) if 8 * k + 1 < 8 * len(planes) else 0
    return used


def unpack(
    units: Buffer,
    bits: Buffer,
    planes: Sequence[Buffer],
    counts: Positions,
    shifts: Positions,
    words: int,
    gaps: Positions,
    deltas: Bytes,
    /,
) -> bool:
    """Undo `pack` (`Kernels.unpack`)."""
    places = _check_packed(gaps, deltas, counts, shifts, bits, planes)
    check(words > 0, "a frame has 1 to 2^24 whole words")
    packed, each = np.frombuffer(bits, dtype=np.uint8), np.frombuffer(units, dtype=np.uint8)
    ends = np.flatnonzero(each != _SKIP)
    if len(ends) != len(gaps) or (ends[-1] + 1 if len(ends) else 0) != len(each):
        return False
    quotients = np.diff(np.cumsum(each, dtype=np.uint32)[ends], prepend=np.uint32(0))
    single, start = np.unpackbits(packed, count=places + len(gaps), bitorder="little"), 0
    for part, shift in zip(_parts(counts), shifts.tolist(), strict=True):
        if int(quotients[part].sum(dtype=np.int64)) > words >> shift:
            return False
        end = start + shift * (part.stop - part.start)
        gaps[part] = quotients[part] << shift | _numbers(single[start:end], shift, part.stop - part.start)
        start = end
    values = deltas.view(UNSIGNED[len(planes)])
    values[:] = single[places:]
    for k, plane in enumerate(planes):
        values |= np.frombuffer(plane, dtype=np.uint8).astype(values.dtype) << (8 * k + 1)
    return True


def _check_packed(
    gaps: Positions,
    deltas: Bytes,
    counts: Positions,
    shifts: Positions,
    bits: Buffer,
    planes: Sequence[Buffer],
) -> int:
    """Check changes class by class against each other; return the number of low bits, behind which the signs lie."""
    check(len(planes) in UNSIGNED, "there must be 1, 2, 4 or 8 planes")
    check({len(plane) for plane in planes} == {len(gaps)}, "planes and gaps differ in number")
    check(len(deltas) == len(planes) * len(gaps), "gaps and deltas differ in number")
    check(len(counts) == len(shifts) == CLASSES, "there must be a count and a shift for each class")
    check(int(counts.sum(dtype=np.int64)) == len(gaps), "counts do not cover the gaps")
    check(int(shifts.max()) <= _MAX_SHIFT, "a shift is out of range")
    places = int((counts.astype(np.int64) * shifts).sum())
    check(len(bits) == -(-(places + len(gaps)) // 8), "the bits differ in number from those of gaps and signs")
    return places


def _low_bits(numbers: Positions, count: int) -> Bytes:
    """Return the `count` low bits of each number, lowest first, one in a byte."""
    used = -(-count // 8)
    octets = np.ascontiguousarray(numbers.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :used])
    bits = np.unpackbits(octets.reshape(-1), bitorder="little").reshape(len(numbers), 8 * used)
    return bits[:, :count].reshape(-1)


def _numbers(bits: Bytes, width: int, count: int) -> Positions:
    """Undo `_low_bits` of so many numbers."""
    used = -(-width // 8)
    padded = np.zeros((count, 8 * used), dtype=np.uint8)
    padded[:, :width] = bits.reshape(count, width)
    numbers = np.zeros((count, 4), dtype=np.uint8)
    numbers[:, :used] = np.packbits(padded.reshape(-1), bitorder="little").reshape(count, used)
    result: Positions = numbers.view("<u4").reshape(-1)
    return result
