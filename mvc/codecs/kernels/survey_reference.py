"""What a writer wants to know of a plane before it codes it, in NumPy."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import (
    PLAN_CONTEXTS,
    SURVEY_CHUNK,
    SURVEY_CHUNKS,
    SURVEY_FIELDS,
    SYMBOL_BITS,
    Counts,
    Logarithms,
    Survey,
)
from mvc.codecs.kernels.words import bit_lengths, check

__all__ = ["stripe_plan", "survey"]

_LOG_BITS: Final = 12
"""Leading bits of a number, but for the first, of which the logarithm is looked up."""

_WINDOW: Final = 1 << 16
"""Bytes of each of two windows in which pieces are looked for: many rows. More would cost time in every plane."""

_STRIDE: Final = 16
"""Words of 8 bytes from one piece to the next: repeated rows are mostly multiples of 128 elements apart."""

_NEAR: Final = 4096
"""Bytes of a sample that are searched for repeats: it takes as long as coding them."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
"""Factor of a multiplicative hash: 2^64 / golden ratio, odd."""

_EIGHT: Final = 8
"""Bytes that must stand somewhere again to count as a repeat."""

_SLOT_SHIFT: Final = np.uint64(52)
"""Bits of a hash below those that find the place of the last 8 bytes like these."""

_ABOVE_LOWEST: Final = np.uint64(0xFEFEFEFEFEFEFEFE)
"""All bits of 8 bytes but the lowest of each, where the sign of a float is (spec-v1, section 6.3)."""

_CORRECTION: Final = 47_274
"""1 / (2 ln 2) bits in 2**-16: what an entropy of few samples lacks for each symbol but one (Miller and Madow)."""

_MEAN_BITS: Final = 12
"""Bits behind the point of the mean of a stripe."""

_BINS: Final = 4096
"""Parts of the range of means in which outliers are looked for."""

_OUTLIERS: Final = 100
"""One stripe of so many, on either side, does not widen the range of means that the contexts divide."""


def _times_log(numbers: npt.NDArray[Any], logs: Logarithms) -> npt.NDArray[np.int64]:
    """Return n log2(n) of every number, in units of 2**-16."""
    n = numbers.reshape(-1).astype(np.uint64)
    whole = np.maximum(bit_lengths(n).astype(np.uint64), np.uint64(1)) - np.uint64(1)
    down = np.where(whole > _LOG_BITS, whole, np.uint64(_LOG_BITS)) - np.uint64(_LOG_BITS)
    part = n >> down << (np.uint64(_LOG_BITS) - np.minimum(whole, np.uint64(_LOG_BITS)))
    times: npt.NDArray[np.int64] = (n * ((whole << np.uint64(16)) + logs[part & np.uint64(len(logs) - 1)])).astype(
        np.int64
    )
    return times.reshape(numbers.shape)


def survey(plane: Bytes, logs: Logarithms, found: Survey, /) -> None:
    """Look at a plane (`Kernels.survey`)."""
    check(len(plane) > 0 and len(logs) == 1 << _LOG_BITS, "a survey needs a plane and 4096 logarithms")
    check(len(found) == SURVEY_FIELDS, "a survey has 9 fields")
    found[:] = 0
    found[0] = np.bitwise_or.reduce(plane ^ plane[0])
    middle = max(_WINDOW, len(plane) // 16 * 8)
    pieces = np.concatenate([_pieces(plane[:_WINDOW]), _pieces(plane[middle : middle + _WINDOW])]) & _ABOVE_LOWEST
    hashes = (pieces[:, 0] * _FACTOR ^ pieces[:, 1]) * _FACTOR
    found[1] = np.count_nonzero(hashes) - np.count_nonzero(np.unique(hashes))
    found[2] = len(hashes)
    chunk = SURVEY_CHUNK if len(plane) >= SURVEY_CHUNKS * SURVEY_CHUNK else len(plane)
    step = (len(plane) - chunk) // (SURVEY_CHUNKS - 1) or 1
    for k, start in enumerate(range(0, len(plane) - chunk + 1, step)):
        part = plane[start : start + chunk]
        found[3 + 2 * k : 5 + 2 * k] = _entropy(part, logs), _near_again(part[:_NEAR])


def _pieces(window: Bytes) -> npt.NDArray[np.uint64]:
    """Return the first 16 bytes of every `_STRIDE` words of `window`, shape (pieces, 2)."""
    words = window[: len(window) // (8 * _STRIDE) * (8 * _STRIDE)].view(np.uint64)
    return words.reshape(-1, _STRIDE)[:, :2]


def _entropy(chunk: Bytes, logs: Logarithms) -> int:
    counts = np.bincount(chunk)
    bits = _times_log(np.array([len(chunk)]), logs).sum() - _times_log(counts, logs).sum()
    return int(bits) + (int(np.count_nonzero(counts)) - 1) * _CORRECTION


def _near_again(chunk: Bytes) -> int:
    """Return how many of the 8 bytes at each place of a chunk stood at the last place with the same hash."""
    if len(chunk) < _EIGHT:
        return 0
    eights = np.lib.stride_tricks.sliding_window_view(chunk, _EIGHT).copy().view(np.uint64).reshape(-1)
    slots = eights * _FACTOR >> _SLOT_SHIFT
    order = np.argsort(slots, kind="stable")
    same = (slots[order][1:] == slots[order][:-1]) & (eights[order][1:] == eights[order][:-1])
    return int(np.count_nonzero(same))


def stripe_plan(plane: Bytes, stripe: int, logs: Logarithms, contexts: Bytes, counts: Counts, /) -> int:
    """Put stripes into contexts (`Kernels.stripe_plan`)."""
    check(
        len(plane) > 0 and stripe > 0 and len(contexts) == -(-len(plane) // stripe), "there is no context for a stripe"
    )
    check(counts.shape == (PLAN_CONTEXTS, 256) and len(logs) == 1 << _LOG_BITS, "there must be 16 tables")
    starts = np.arange(0, len(plane), stripe)
    contexts[:] = _places(np.add.reduceat(plane, starts, dtype=np.uint64), np.diff(starts, append=len(plane)))
    pairs = contexts.repeat(min(stripe, len(plane)))[: len(plane)].astype(np.int64) << 8 | plane
    first = np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    sizes = np.bincount(contexts, minlength=PLAN_CONTEXTS)
    costs = [_cost(_merged(first, k), _merged(sizes, k), logs) for k in range(PLAN_CONTEXTS.bit_length())]
    best = int(np.argmin(costs))
    used = _merged(sizes, best) > 0
    number = np.cumsum(used, dtype=np.uint8) - np.uint8(1)
    contexts[:] = number[contexts >> np.uint8(best)]
    left = _merged(first, best)[used]
    counts[: len(left)] = left
    return len(left)


def _places(sums: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which of 16 equal parts of the range of means each stripe lies in; outliers lie in the first or last."""
    means = (sums << np.uint64(_MEAN_BITS)).astype(np.int64) // sizes
    bins = (means - means.min()) * _BINS // (means.max() - means.min() + 1)
    counts = np.bincount(bins, minlength=_BINS)
    outliers = len(means) // _OUTLIERS
    low = int(np.argmax(np.cumsum(counts) > outliers))
    high = _BINS - 1 - int(np.argmax(np.cumsum(counts[::-1]) > outliers))
    places: npt.NDArray[np.int64] = (np.clip(bins, low, high) - low) * PLAN_CONTEXTS // (high - low + 1)
    return places


def _merged(numbers: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Return the sums of each 2**k neighbours along the first axis."""
    merged: npt.NDArray[np.int64] = np.add.reduceat(numbers, np.arange(0, PLAN_CONTEXTS, 1 << k))
    return merged


def _cost(counts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], logs: Logarithms) -> int:
    """Return the bits of a plane, less a constant: of its bytes, tables and contexts."""
    coded = _times_log(counts.sum(axis=1), logs).sum() - _times_log(counts, logs).sum()
    return int(coded + SYMBOL_BITS * np.count_nonzero(counts) - _times_log(sizes, logs).sum())
