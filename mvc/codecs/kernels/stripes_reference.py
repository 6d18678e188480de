"""The kernels of entropy-coded planes in NumPy (spec-v1, section 6.2, mode 4)."""

from __future__ import annotations

from typing import Final

import numpy as np

from mvc.codecs.abc import Bytes
from mvc.codecs.kernels.abc import Buffer, Frequencies, Keys, States
from mvc.codecs.kernels.rans_reference import checked_tables, decode_lanes, encode_lanes
from mvc.codecs.kernels.words import check

__all__ = ["stripe_decode", "stripe_encode"]

_BYTES: Final = 256
"""Values of a byte."""


def stripe_encode(
    plane: Bytes, stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, /
) -> int:
    """Code the bytes of a plane (`Kernels.stripe_encode`)."""
    tables = checked_tables(frequencies, _BYTES, len(states))
    check(len(refills) > len(plane), "there is no room for the refills")
    of_bytes = _spread(contexts, stripe, len(plane), len(tables))
    coded = encode_lanes(plane, of_bytes, tables, states)
    refills[: len(coded)] = coded
    return len(coded)


def stripe_decode(
    stripe: int, contexts: Buffer, frequencies: Frequencies, states: States, refills: Keys, plane: Bytes, /
) -> bool:
    """Undo `stripe_encode` (`Kernels.stripe_decode`)."""
    tables = checked_tables(frequencies, _BYTES, len(states))
    decoded = decode_lanes(_spread(contexts, stripe, len(plane), len(tables)), tables, states, refills)
    if decoded is None:
        return False
    plane[:] = decoded
    return True


def _spread(contexts: Buffer, stripe: int, size: int, count: int) -> Bytes:
    """Return the context of each of `size` bytes."""
    of_stripes = np.frombuffer(contexts, dtype=np.uint8)
    check(stripe > 0 and len(of_stripes) == -(-size // stripe), "there must be one context for each stripe")
    check(not size or int(of_stripes.max()) < count, "a stripe has no table")
    spread: Bytes = of_stripes.repeat(min(stripe, max(size, 1)))[:size]
    return spread
