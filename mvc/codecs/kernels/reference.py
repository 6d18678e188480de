"""The kernels in NumPy: they define the bytes, and run where no compiled kernels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import CLASSES, Buffer, Number, Positions, Sums, scratch_bytes

__all__ = ["changes", "gaps", "join", "locate", "measure", "patch", "sort", "split", "unsort"]

Words = npt.NDArray[Any]
"""Of one of the four unsigned types of `_UNSIGNED`."""

_UNSIGNED: Final = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}

_MAX_CAP: Final = 1023
"""Largest r + 2 (E - e) that is told apart (spec-v1, section 6.4); it keeps the table of counts inside a cache."""

_MAX_EXPONENT: Final = 2047
"""Largest exponent field: that of fp64."""

_BIT_LENGTHS: Final = np.frexp(np.arange(1 << 16, dtype=np.float64))[1].astype(np.uint8)
"""Bit length of every number of 16 bits."""


def _words(buffer: Buffer, word_bytes: int) -> Words:
    return np.frombuffer(buffer, dtype=_UNSIGNED[word_bytes])


def _check(condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(message)


def _check_planes(planes: Sequence[Buffer], words: Buffer) -> None:
    _check(len(planes) in _UNSIGNED, "there must be 1, 2, 4 or 8 planes")
    sizes = {len(plane) for plane in planes}
    _check(len(sizes) == 1, "planes differ in length")
    _check(sizes.pop() * len(planes) == len(words), "planes and words differ in size")


def split(words: Buffer, planes: Sequence[Bytes], rotate: bool, /) -> None:  # noqa: FBT001
    """Write byte k of every word into ``planes[k]``, after turning words left by one bit if `rotate`."""
    _check_planes(planes, words)
    w = _words(words, len(planes))
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
        w = words.view(_UNSIGNED[len(planes)])
        w[:] = (w >> 1) | (w << (8 * len(planes) - 1))


def _sign(w: Words) -> Words:
    """Return all ones where the top bit of `w` is set, else zero."""
    signs: Words = ~((w >> (8 * w.itemsize - 1)) - w.dtype.type(1))
    return signs


def _top(w: Words) -> Words:
    """Return the top bit alone, as one number of the type of `w`."""
    return np.array(1 << (8 * w.itemsize - 1), dtype=w.dtype)


def _ordered(x: Words) -> Words:
    """Map the bits of floats to integers of the same order."""
    return x ^ (_sign(x) | _top(x))


def _unordered(o: Words) -> Words:
    return o ^ (~_sign(o) | _top(o))


def _forward(t: Words, b: Words, *, is_float: bool) -> Words:
    """Return the zigzag delta from `b` to `t`; towards larger magnitudes is positive for floats."""
    d: Words = t - b
    if is_float:
        d = _ordered(t) - _ordered(b)
        s = _sign(b)
        d = (d ^ s) - s
    u: Words = (d << 1) ^ _sign(d)
    return u


def _inverse(u: Words, b: Words, *, is_float: bool) -> Words:
    d = (u >> 1) ^ ~((u & 1) - u.dtype.type(1))
    if not is_float:
        t: Words = b + d
        return t
    s = _sign(b)
    return _unordered(_ordered(b) + ((d ^ s) - s))


def _bit_lengths(u: Words) -> npt.NDArray[np.uint8]:
    lengths = np.zeros(len(u), dtype=np.uint8)
    for shift in range(0, 8 * u.itemsize, 16):
        part = (u >> shift).astype(np.uint16)
        np.copyto(lengths, _BIT_LENGTHS[part] + np.uint8(shift), where=part != 0)
    return lengths


def _exponents(b: Words, number: Number) -> npt.NDArray[np.uint16]:
    return ((b >> number.mantissa_bits) & ((1 << number.exponent_bits) - 1)).astype(np.uint16)


def _check_frame(number: Number, nbytes: int, row_words: int, rows: int, mantissa: int) -> None:
    bits = 8 * number.word_bytes
    _check(number.word_bytes in _UNSIGNED, "a word has 1, 2, 4 or 8 bytes")
    fields = number.exponent_bits + number.mantissa_bits
    _check(fields in {0, bits - 1}, "the fields of a float must fill its word")
    _check(nbytes > 0 and nbytes % number.word_bytes == 0, "a frame has 1 to 2^24 whole words")
    _check(row_words >= 1 and rows == -(-nbytes // (number.word_bytes * row_words)), "rows do not cover the frame")
    _check(0 <= mantissa <= min(7, number.mantissa_bits), "mantissa out of range")


def measure(target: Bytes, base: Bytes, number: Number, row_words: int, deltas: Bytes, sums: Sums, /) -> None:
    """Write the zigzag deltas of a frame and how large they are, row by row (`Kernels.measure`)."""
    _check_frame(number, len(target), row_words, len(sums), 0)
    _check(len(base) == len(target) == len(deltas), "target, base and deltas differ in size")
    b = _words(base, number.word_bytes)
    u = _forward(_words(target, number.word_bytes), b, is_float=number.exponent_bits > 0)
    deltas.view(u.dtype)[:] = u
    starts = np.arange(0, len(u), row_words)
    sizes = np.add.reduceat(_bit_lengths(u), starts, dtype=np.int64)
    if number.exponent_bits:
        sizes += np.add.reduceat(_exponents(b, number), starts, dtype=np.int64)
    sums[:] = np.where(np.bitwise_or.reduceat(u, starts) != 0, sizes, -1)


def _keys(b: Words, number: Number, rows: Buffer, row_words: int, mantissa: int) -> npt.NDArray[np.uint16]:
    keys = np.frombuffer(rows, dtype=np.uint8).astype(np.uint16).repeat(row_words)[: len(b)]
    if number.exponent_bits:
        e = _exponents(b, number)
        keys += 2 * (e.max() - e)  # below 2**13
        np.minimum(keys, min((1 << (16 - mantissa)) - 1, _MAX_CAP), out=keys)
    if mantissa:
        keys <<= mantissa
        keys |= ((b >> (number.mantissa_bits - mantissa)) & ((1 << mantissa) - 1)).astype(np.uint16)
    return keys


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
    _check_frame(number, len(base), row_words, len(rows), mantissa)
    _check(len(deltas) == len(base) and len(planes) == number.word_bytes, "deltas, base and planes differ in size")
    _check(len(scratch) >= scratch_bytes(number, len(base) // number.word_bytes), "scratch memory is too small")
    keys = _keys(_words(base, number.word_bytes), number, rows, row_words, mantissa)
    order = np.argsort(keys, kind="stable")  # radix sort: linear in the number of words
    split(_words(deltas, number.word_bytes)[order].view(np.uint8), planes, False)


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
    _check_frame(number, len(base), row_words, len(rows), mantissa)
    _check(len(target) == len(base) and len(planes) == number.word_bytes, "planes, base and target differ in size")
    _check(len(scratch) >= scratch_bytes(number, len(base) // number.word_bytes), "scratch memory is too small")
    b = _words(base, number.word_bytes)
    order = np.argsort(_keys(b, number, rows, row_words, mantissa), kind="stable")
    ordered = np.empty(len(base), dtype=np.uint8)
    join(planes, ordered, False)
    u = np.empty_like(b)
    u[order] = ordered.view(b.dtype)
    target.view(b.dtype)[:] = _inverse(u, b, is_float=number.exponent_bits > 0)


def changes(target: Bytes, base: Bytes, number: Number, positions: Positions, deltas: Bytes, /) -> int:
    """Find the words of a frame that differ from the base (`Kernels.changes`)."""
    _check_frame(number, len(base), len(base), 1, 0)
    _check(len(target) == len(base), "target and base differ in size")
    _check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    t, b = _words(target, number.word_bytes), _words(base, number.word_bytes)
    found = np.flatnonzero(t != b)
    if len(found) > len(positions):
        return -1
    positions[: len(found)] = found
    u = _forward(t[found], b[found], is_float=number.exponent_bits > 0)
    deltas.view(u.dtype)[: len(found)] = u - u.dtype.type(1)
    return len(found)


def _classes(b: Words, number: Number, top: int) -> Bytes:
    if not number.exponent_bits:
        return np.zeros(len(b), dtype=np.uint8)
    return np.clip(top - _exponents(b, number).astype(np.int16), 0, CLASSES - 1).astype(np.uint8)


def gaps(base: Bytes, number: Number, top: int, positions: Positions, gaps: Positions, classes: Bytes, /) -> None:
    """Write the class and the gap of each changed word (`Kernels.gaps`)."""
    _check_frame(number, len(base), len(base), 1, 0)
    _check(len(positions) == len(gaps) == len(classes), "positions, gaps and classes differ in number")
    _check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    b = _words(base, number.word_bytes)
    _check(not len(positions) or int(positions[-1]) < len(b), "a position lies beyond the frame")
    _check(bool((positions[1:] > positions[:-1]).all()), "positions do not ascend")
    every = _classes(b, number, top)
    classes[:] = every[positions]
    for c in range(CLASSES):
        mine = np.flatnonzero(classes == c)
        ranks = np.searchsorted(np.flatnonzero(every == c), positions[mine])
        gaps[mine] = np.diff(ranks, prepend=-1) - 1


def locate(base: Bytes, number: Number, top: int, counts: Positions, gaps: Positions, positions: Positions, /) -> bool:
    """Undo `gaps` (`Kernels.locate`)."""
    _check_frame(number, len(base), len(base), 1, 0)
    _check(len(counts) == CLASSES and int(counts.sum(dtype=np.int64)) == len(gaps), "counts do not cover the gaps")
    _check(len(positions) == len(gaps), "positions and gaps differ in number")
    _check(0 <= top <= _MAX_EXPONENT, "top exponent out of range")
    every = _classes(_words(base, number.word_bytes), number, top)
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
    _check_frame(number, len(base), len(base), 1, 0)
    _check(len(target) == len(base), "target and base differ in size")
    _check(len(deltas) == number.word_bytes * len(positions), "positions and deltas differ in number")
    b, v = _words(base, number.word_bytes), _words(deltas, number.word_bytes)
    _check(not len(positions) or int(positions.max()) < len(b), "a position lies beyond the frame")
    target[:] = base
    u = v + v.dtype.type(1)
    target.view(b.dtype)[positions] = _inverse(u, b[positions], is_float=number.exponent_bits > 0)
