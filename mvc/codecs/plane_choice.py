"""Which ways of coding a byte plane are worth trying: found from samples, without coding the whole plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs import zstd
from mvc.codecs.abc import Bytes
from mvc.codecs.zstd import Effort

__all__ = ["Plan", "plans"]

_CHUNK: Final = 1 << 13
"""Bytes of a sample: long enough for near repeats to show, short enough to have one distribution."""

_GLANCE: Final = 1 << 6
"""Bytes that tell almost every plane from one of two values."""

_CHUNKS: Final = 3
"""Samples of a plane. Trying both compressors on them costs about a twentieth of coding a plane of 1 MiB."""

_SMALL: Final = 2 * _CHUNKS * _CHUNK
"""Bytes of a plane that is not worth sampling: everything is tried on the whole of it."""

_NOISE: Final = 0.995
"""Compressed share of the samples above which a plane is stored raw: coding it would cost time and save nothing."""

_REPEATS_GAIN: Final = 0.97
"""Searching for repeats must make the samples this much smaller: it is several times slower."""

_STRIDE: Final = 16
"""Words of 8 bytes from one piece to the next: repeated rows are mostly multiples of 128 elements apart."""

_WINDOW: Final = 1 << 16
"""Bytes of each of two windows in which pieces are looked for: many rows. More would cost time in every plane."""

_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
"""Factor of a multiplicative hash: 2^64 / golden ratio, odd."""

_ABOVE_LOWEST: Final = np.uint64(0xFEFEFEFEFEFEFEFE)
"""All bits of 8 bytes but the lowest of each, where the sign of a float is (spec-v1, section 6.3)."""

_REPEATED: Final = 1 / 32
"""Share of pieces that must have occurred before: searching costs several times the entropy coder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to code a plane."""

    effort: Effort
    apart: bool = False
    """Whether the lowest bit of each byte is stored apart from the others."""


def plans(plane: Bytes, effort: Effort) -> list[Plan]:
    """Return what to try on the whole of `plane`, shape (N,); nothing if it looks like noise.

    `effort` is how the caller codes planes without repeats.
    """
    if _two_valued(plane):
        return [Plan(Effort.REPEATS, apart=True), Plan(effort), Plan(Effort.REPEATS)]
    far = [Plan(Effort.REPEATS, apart=True)] if _repeats_afar(plane) else []
    if far or len(plane) <= _SMALL:
        return [Plan(effort), Plan(Effort.REPEATS), *far]
    entropy, repeats = _sampled_size(plane, effort), _sampled_size(plane, Effort.REPEATS)
    if repeats < _REPEATS_GAIN * entropy:
        return [Plan(Effort.REPEATS)]
    return [Plan(effort)] if entropy < _NOISE * _CHUNKS * _CHUNK else []


def _two_valued(plane: Bytes) -> bool:
    """Return whether only the lowest bit of the bytes varies. The beginning is looked at first: it mostly tells."""
    return all(len(part) > 0 and bool((part >> 1 == part[0] >> 1).all()) for part in (plane[:_GLANCE], plane))


def _repeats_afar(plane: Bytes) -> bool:
    """Return whether pieces of `plane`, but for their lowest bits and not of zeros, occur again far from each other.

    Samples cannot see what lies farther apart than they are long, such as equal rows. The second window begins in the
    middle of the plane, so equal halves are seen too.
    """
    middle = max(_WINDOW, len(plane) // 16 * 8)
    ordered = np.sort(np.concatenate([_hashes(plane[:_WINDOW]), _hashes(plane[middle : middle + _WINDOW])]))
    again = int(np.count_nonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)))
    return again > _REPEATED * len(ordered)


def _hashes(window: Bytes) -> npt.NDArray[np.uint64]:
    """Return a hash of 16 bytes of every `_STRIDE` words of `window`; 0 if they are zeros."""
    words = window[: len(window) - len(window) % (8 * _STRIDE)].view(np.uint64)
    first, second = words[::_STRIDE] & _ABOVE_LOWEST, words[1::_STRIDE] & _ABOVE_LOWEST
    hashes: npt.NDArray[np.uint64] = (first * _FACTOR ^ second) * _FACTOR
    return hashes


def _sampled_size(plane: Bytes, effort: Effort) -> int:
    """Return the compressed bytes of evenly spaced chunks of `plane`.

    Each is compressed by itself: together they would share a Huffman table that suits none of them, and searching for
    repeats would seem to win.
    """
    step = (len(plane) - _CHUNK) // (_CHUNKS - 1)
    return sum(len(zstd.compress(plane[i * step : i * step + _CHUNK], effort)) for i in range(_CHUNKS))
