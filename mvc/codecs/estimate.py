"""How small a codec makes a tensor, judged by a few of its frames. For planning; pure, like everything here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mvc.codecs.abc import Bytes, Codec, FrameSpec

__all__ = ["Sample", "estimate"]

Sample = tuple[Bytes, Sequence[Bytes], FrameSpec]
"""A range of the target, the same range of each side tensor, and its spec; a range of whole rows, if rows are short."""


def estimate(codec: Codec, samples: Iterable[Sample]) -> float:
    """Return stored bytes per raw byte of `codec` on `samples`.

    Samples much shorter than a frame overstate the result by the fixed cost of a frame, about 50 bytes: take at least
    some ten thousand words of each.

    Examples
    --------
    >>> import numpy as np
    >>> from mvc.codecs import Planes
    >>> from mvc.types import dtype_of
    >>> zeros = np.zeros(4096, dtype=np.uint8)
    >>> estimate(Planes(), [(zeros, (), FrameSpec(dtype_of("BF16"), 2048, 2048))]) < 0.01
    True
    """
    stored = raw = 0
    for frame, sides, spec in samples:
        stored += len(codec.encode(frame, sides, spec))
        raw += spec.nbytes
    return stored / raw if raw else 0.0
