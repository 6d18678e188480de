"""The kernels of `context-delta` in NumPy (spec-v1, section 6.5): one word of every lane at a time."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import (
    TILE,
    Buffer,
    Counts,
    Frequencies,
    Keying,
    Keys,
    States,
    key_count,
    symbol_count,
)
from mvc.codecs.kernels.rans_reference import checked_tables, decode_lanes, encode_lanes
from mvc.codecs.kernels.words import (
    UNSIGNED,
    Words,
    bit_lengths,
    check,
    check_frame,
    inverse,
    keys_of,
    top_exponent,
    words_of,
)

__all__ = ["classify", "context_decode", "context_encode", "count_keys"]

_EXACT: Final = 16
"""Deltas below this are symbols of their own."""

_LEAST_LANES: Final = 8
"""Lanes of a frame (spec-v1, section 6.5, step 5)."""

_BITS_AT_ONCE: Final = 1 << 13
"""Words whose raw bits are handled at a time, for they take up to 60 bytes each."""


def count_keys(base: Bytes, keying: Keying, step: int, counts: Counts, /) -> int:
    """Write how often each key occurs in some tiles (`Kernels.count_keys`)."""
    words = _checked_words(base, keying)
    check(len(counts) >= key_count(keying.mantissa) and step > 0, "counts are too small, or the step is none")
    chosen = np.arange(len(words)) // TILE % step == 0
    counts[:] = np.bincount(keys_of(words, *keying)[chosen], minlength=len(counts))
    return top_exponent(words, keying.number)


def _checked_words(base: Bytes, keying: Keying) -> Words:
    check_frame(keying.number, len(base), keying.row_words, len(keying.rows), keying.mantissa)
    return words_of(base, keying.number.word_bytes)


def classify(
    deltas: Bytes,
    base: Bytes,
    keying: Keying,
    top: int,
    context_of: Bytes,
    symbols: Bytes,
    contexts: Bytes,
    counts: Counts,
    /,
) -> None:
    """Write symbol and context of every delta, and how often they meet (`Kernels.classify`)."""
    words = _checked_words(base, keying)
    check(len(deltas) == len(base), "deltas and base differ in length")
    check(len(symbols) == len(contexts) == len(words), "words, symbols and contexts differ in number")
    shape = (int(context_of.max()) + 1, symbol_count(keying.number.word_bytes))
    check(len(context_of) >= key_count(keying.mantissa), "a key has no context")
    check(counts.size == shape[0] * shape[1], "counts are not those of the contexts")
    check(0 <= top < 1 << keying.number.exponent_bits, "there is no such exponent")
    symbols[:] = _symbols(words_of(deltas, keying.number.word_bytes))
    contexts[:] = context_of[keys_of(words, *keying, top)]
    pairs = contexts.astype(np.int64) * shape[1] + symbols
    counts.reshape(-1)[:] = np.bincount(pairs, minlength=counts.size)


def _symbols(u: Words) -> npt.NDArray[np.uint8]:
    lengths = bit_lengths(u)
    shift = np.maximum(lengths, 3) - np.uint8(3)
    parts = ((u >> shift.astype(u.dtype)) & 3).astype(np.uint8)
    return np.where(u < _EXACT, u.astype(np.uint8), 4 * lengths - np.uint8(4) + parts).astype(np.uint8)


def _raw_bits(symbols: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return how many raw bits each word has."""
    return np.where(symbols < _EXACT, 0, (symbols >> 2).astype(np.int64) - 2)


def _checked_tables(frequencies: Frequencies, word_bytes: int, lanes: int) -> Frequencies:
    check(word_bytes in UNSIGNED and lanes >= _LEAST_LANES, "a word has 1, 2, 4 or 8 bytes, and a frame 8 lanes")
    return checked_tables(frequencies, symbol_count(word_bytes), lanes)


def context_encode(
    deltas: Bytes,
    word_bytes: int,
    symbols: Bytes,
    contexts: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    bits: Bytes,
    /,
) -> tuple[int, int]:
    """Code symbols and raw bits (`Kernels.context_encode`)."""
    tables = _checked_tables(frequencies, word_bytes, len(states))
    words = len(symbols)
    check(len(deltas) == words * word_bytes and len(contexts) == words, "deltas, symbols and contexts disagree")
    check(len(refills) > words and len(bits) >= len(deltas) + 8, "there is no room for the result")
    check(not words or (int(symbols.max()) < tables.shape[1] and int(contexts.max()) < len(tables)), "no such table")
    coded = encode_lanes(symbols, contexts, tables, states)
    refills[: len(coded)] = coded
    packed = _packed(words_of(deltas, word_bytes), _raw_bits(symbols))
    bits[: len(packed)] = packed
    return len(coded), len(packed)


def _packed(u: Words, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return the lowest ``counts[i]`` bits of every word, one after the other."""
    spread = [
        _spread(u[start : start + _BITS_AT_ONCE], counts[start : start + _BITS_AT_ONCE])
        for start in range(0, len(u), _BITS_AT_ONCE)
    ]
    packed: Bytes = np.packbits(np.concatenate([np.empty(0, np.uint8), *spread]), bitorder="little")
    return packed


def _spread(u: Words, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return those bits as one byte each."""
    first = np.cumsum(counts) - counts
    place = np.arange(int(counts.sum())) - first.repeat(counts)
    spread: Bytes = ((u.repeat(counts) >> place.astype(u.dtype)) & 1).astype(np.uint8)
    return spread


def context_decode(
    base: Bytes,
    keying: Keying,
    context_of: Bytes,
    frequencies: Frequencies,
    states: States,
    refills: Keys,
    bits: Buffer,
    target: Bytes,
    /,
) -> bool:
    """Undo `context_encode`, `classify` and `measure` (`Kernels.context_decode`)."""
    b = _checked_words(base, keying)
    tables = _checked_tables(frequencies, keying.number.word_bytes, len(states))
    check(len(target) == len(base), "base and target differ in size")
    check(len(context_of) >= key_count(keying.mantissa), "a key has no context")
    check(int(context_of.max()) < len(tables), "a context has no table")
    symbols = decode_lanes(context_of[keys_of(b, *keying)], tables, states, refills)
    u = None if symbols is None else _deltas(symbols, np.frombuffer(bits, np.uint8), b.dtype)
    if u is None:
        return False
    target.view(b.dtype)[:] = inverse(u, b, is_float=keying.number.exponent_bits > 0)
    return True


def _deltas(symbols: Bytes, bits: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> Words | None:
    """Return the zigzag deltas; None if the raw bits are too few or too many, or the unused ones are not 0."""
    padded = np.concatenate([bits, np.zeros(9, np.uint8)])
    u = np.empty(len(symbols), dtype)
    place = 0
    for start in range(0, len(symbols), _BITS_AT_ONCE):
        s = symbols[start : start + _BITS_AT_ONCE]
        counts = _raw_bits(s)
        ends = place + np.cumsum(counts)
        if ends[-1] > 8 * len(bits):
            return None
        widths = counts.astype(np.uint64)
        leading = np.where(s < _EXACT, s, 4 + (s & 3)).astype(np.uint64) << widths
        mask = (np.uint64(1) << widths) - np.uint64(1)
        u[start : start + len(s)] = leading | (_windows(padded, ends - counts) & mask)
        place = int(ends[-1])
    whole = len(bits) == -(-place // 8) and not (place % 8 and bits[-1] >> place % 8)
    return u if whole else None


def _windows(padded: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the 64 bits of a stream that begin at each of `places`; 9 bytes follow its end."""
    first, shift = places >> 3, (places & 7).astype(np.uint64)
    low = np.zeros(len(places), np.uint64)
    for k in range(8):
        low |= padded[first + k].astype(np.uint64) << np.uint64(8 * k)
    high = padded[first + 8].astype(np.uint64)
    windows: npt.NDArray[np.uint64] = low >> shift | (high << np.uint64(1) << (np.uint64(63) - shift))
    return windows
