"""Codes of `step-delta` as symbols and the bits that symbols do not tell (spec-v1, sections 6.5 and 6.10)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mvc.codecs.abc import Bytes
from mvc.errors import MalformedError
from mvc.types.steps import Codes

__all__ = ["CLASSES", "MOST_WEIGHT", "SYMBOLS", "Magnitudes", "codes_of", "magnitudes_of", "raw_bits", "symbols_of"]

Magnitudes = npt.NDArray[np.uint32]

_PLAIN: Final = 16
"""Magnitudes below it are symbols; the others share one with those of the same three leading bits."""

SYMBOLS: Final = _PLAIN + 4 * 21
"""Of magnitudes of up to 25 bits."""

CLASSES: Final = 29
"""Half powers of two that a mean weight can have."""

MOST_WEIGHT: Final = 15
"""What a symbol counts at most."""


def magnitudes_of(codes: Codes) -> Magnitudes:
    """Return the zigzag of codes (6.4, step 3)."""
    magnitudes: Magnitudes = ((codes << 1) ^ (codes >> 31)).view(np.uint32)
    return magnitudes


def symbols_of(magnitudes: Magnitudes) -> Bytes:
    """Return the symbol of each magnitude (6.5, step 1)."""
    symbols: Bytes = magnitudes.astype(np.uint8)
    large = magnitudes >= _PLAIN
    u = magnitudes[large]
    lengths = np.frexp(u.astype(np.float64))[1].astype(np.uint32)
    symbols[large] = _PLAIN + 4 * (lengths - 5) + (u >> (lengths - 3) & 3)
    return symbols


def raw_bits(magnitudes: Magnitudes, symbols: Bytes) -> bytes:
    """Return the bits that symbols do not tell: the lowest of all magnitudes that have one, then the next."""
    large = symbols >= _PLAIN
    u, lengths = magnitudes[large], _raw_lengths(symbols[large])
    most = int(lengths.max(initial=0))
    bits = [(u[lengths > b] >> np.uint32(b) & 1).astype(np.uint8) for b in range(most)]
    return np.packbits(np.concatenate([np.empty(0, np.uint8), *bits]), bitorder="little").tobytes()


def _raw_lengths(symbols: Bytes) -> Bytes:
    """Return how many bits each symbol from `_PLAIN` on does not tell."""
    lengths: Bytes = (symbols - np.uint8(_PLAIN)) // np.uint8(4) + np.uint8(2)
    return lengths


def codes_of(symbols: Bytes, raw: memoryview) -> Codes:
    """Return the codes that symbols and raw bits tell.

    Raises
    ------
    MalformedError
        If `raw`, which is untrusted, has more or fewer bits.
    """
    u = symbols.astype(np.uint32)
    large = symbols >= _PLAIN
    lengths = _raw_lengths(symbols[large])
    total = int(lengths.sum(dtype=np.int64))
    if len(raw) != -(-total // 8) or (total % 8 and raw[-1] >> total % 8):
        raise MalformedError(f"codes have {len(raw)} bytes of raw bits; {total} bits are needed, and zeros behind them")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=total, bitorder="little")
    lows, at = np.zeros(len(lengths), dtype=np.uint32), 0
    for b in range(int(lengths.max(initial=0))):
        longer = lengths > b
        here = int(longer.sum())
        lows[longer] |= bits[at : at + here].astype(np.uint32) << np.uint32(b)
        at += here
    u[large] = (np.uint32(4) + (symbols[large] & 3)) << lengths.astype(np.uint32) | lows
    codes: Codes = ((u >> 1) ^ (~(u & 1) + np.uint32(1))).view(np.int32)
    return codes
