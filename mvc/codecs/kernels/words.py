"""Words as NumPy arrays of unsigned integers: what the kernels of the reference have in common."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.kernels.abc import Buffer, Number, key_count

__all__ = [
    "UNSIGNED",
    "Words",
    "bit_lengths",
    "check",
    "check_frame",
    "exponents",
    "forward",
    "inverse",
    "keys_of",
    "ordered",
    "stable_order",
    "top_exponent",
    "words_of",
]

_AT_ONCE: Final = 1 << 16
"""Words that are widened at a time, to save memory."""

Words = npt.NDArray[Any]
"""Of one of the four unsigned types of `UNSIGNED`."""

UNSIGNED: Final = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}
"""Type of a word, by its bytes."""

_BIT_LENGTHS: Final = np.frexp(np.arange(1 << 16, dtype=np.float64))[1].astype(np.uint8)
"""Bit length of every number of 16 bits."""


def words_of(buffer: Buffer, word_bytes: int) -> Words:
    """Return the words of `buffer`, without copying them."""
    return np.frombuffer(buffer, dtype=UNSIGNED[word_bytes])


def check(condition: bool, message: str) -> None:  # noqa: FBT001
    """Raise ValueError with `message` unless `condition` holds: a caller has mistaken a length."""
    if not condition:
        raise ValueError(message)


def check_frame(number: Number, nbytes: int, row_words: int, rows: int, mantissa: int) -> None:
    """Check words, rows and mantissa of a frame against each other."""
    bits = 8 * number.word_bytes
    check(number.word_bytes in UNSIGNED, "a word has 1, 2, 4 or 8 bytes")
    fields = number.exponent_bits + number.mantissa_bits
    check(fields in {0, bits - 1}, "the fields of a float must fill its word")
    check(nbytes > 0 and nbytes % number.word_bytes == 0, "a frame has 1 to 2^24 whole words")
    check(row_words >= 1 and rows == -(-nbytes // (number.word_bytes * row_words)), "rows do not cover the frame")
    check(0 <= mantissa <= min(7, number.mantissa_bits), "mantissa out of range")


def _sign(w: Words) -> Words:
    """Return all ones where the top bit of `w` is set, else zero."""
    signs: Words = ~((w >> (8 * w.itemsize - 1)) - w.dtype.type(1))
    return signs


def _top(w: Words) -> Words:
    """Return the top bit alone, as one number of the type of `w`."""
    return np.array(1 << (8 * w.itemsize - 1), dtype=w.dtype)


def ordered(x: Words) -> Words:
    """Map the bits of floats to integers of the same order."""
    return x ^ (_sign(x) | _top(x))


def _unordered(o: Words) -> Words:
    return o ^ (~_sign(o) | _top(o))


def forward(t: Words, b: Words, *, is_float: bool) -> Words:
    """Return the zigzag delta from `b` to `t`; towards larger magnitudes is positive for floats."""
    d: Words = t - b
    if is_float:
        d = ordered(t) - ordered(b)
        s = _sign(b)
        d = (d ^ s) - s
    u: Words = (d << 1) ^ _sign(d)
    return u


def inverse(u: Words, b: Words, *, is_float: bool) -> Words:
    """Undo `forward`."""
    d = (u >> 1) ^ ~((u & 1) - u.dtype.type(1))
    if not is_float:
        t: Words = b + d
        return t
    s = _sign(b)
    return _unordered(ordered(b) + ((d ^ s) - s))


def bit_lengths(u: Words) -> npt.NDArray[np.uint8]:
    """Return the number of bits up to the leading one of each word."""
    lengths = np.zeros(len(u), dtype=np.uint8)
    for shift in range(0, 8 * u.itemsize, 16):
        part = (u >> shift).astype(np.uint16)
        np.copyto(lengths, _BIT_LENGTHS[part] + np.uint8(shift), where=part != 0)
    return lengths


def exponents(b: Words, number: Number) -> npt.NDArray[np.uint16]:
    """Return the exponent fields of floats."""
    return ((b >> number.mantissa_bits) & ((1 << number.exponent_bits) - 1)).astype(np.uint16)


def top_exponent(b: Words, number: Number) -> int:
    """Return the largest exponent field; 0 for words that have none."""
    return int(exponents(b, number).max()) if number.exponent_bits else 0


def keys_of(
    b: Words, number: Number, rows: Buffer, row_words: int, mantissa: int, top: int | None = None
) -> npt.NDArray[np.uint16]:
    """Return the key of each word (spec-v1, section 6.4, step 5); `top` is the largest exponent field, if known."""
    keys = np.frombuffer(rows, dtype=np.uint8).astype(np.uint16).repeat(min(row_words, len(b)))[: len(b)]
    if number.exponent_bits:
        e = exponents(b, number)
        keys += 2 * ((e.max() if top is None else np.uint16(top)) - e)  # below 2**13
        np.minimum(keys, (key_count(mantissa) >> mantissa) - 1, out=keys)
    if mantissa:
        keys <<= mantissa
        keys |= ((b >> (number.mantissa_bits - mantissa)) & ((1 << mantissa) - 1)).astype(np.uint16)
    return keys


def stable_order(keys: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Return the places of `keys`, ascending by key, and equal keys in the order in which they stand.

    Key and place are sorted as one number, in place: NumPy's stable sort takes twice the memory.
    """
    order = np.arange(len(keys), dtype=np.uint64)
    for start in range(0, len(keys), _AT_ONCE):
        order[start : start + _AT_ONCE] |= keys[start : start + _AT_ONCE].astype(np.uint64) << np.uint64(32)
    order.sort()
    order &= np.uint64(0xFFFFFFFF)
    return order.view(np.int64)
