"""How small a codec makes a tensor, judged by a few of its frames. For planning; pure, like everything here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mvc.codecs.abc import Bytes, Codec, FrameSpec

__all__ = ["Sample", "estimate"]

Sample = tuple[Bytes, Sequence[Bytes], FrameSpec]
"""A range of the target, the same range of each side tensor, and its spec; a range of whole rows, if rows are short."""


def estimate(codec: Codec, samples: Sequence[Sample]) -> float:
    """Return stored bytes per raw byte of `codec` on `samples`, taken together as one frame if that can be.

    Samples much shorter than a frame overstate the result by the fixed cost of a frame and its tables: take at least
    some hundred thousand words in all.

    Examples
    --------
    >>> import numpy as np
    >>> from mvc.codecs import Planes
    >>> from mvc.types import dtype_of
    >>> zeros = np.zeros(4096, dtype=np.uint8)
    >>> estimate(Planes(), [(zeros, (), FrameSpec(dtype_of("BF16"), 2048, 2048))]) < 0.01
    True
    """
    if not samples:
        return 0.0
    frames = samples if codec.positional else [_joined(samples)]
    return sum(len(codec.encode(*frame)) for frame in frames) / sum(spec.nbytes for _, _, spec in frames)


def _joined(samples: Sequence[Sample]) -> Sample:
    """Return the samples end to end. Their rows are whole, or there are none."""
    if len(samples) == 1:
        return samples[0]
    frames, sides, specs = zip(*samples, strict=True)
    spec = replace(specs[0], words=sum(spec.words for spec in specs), start=0)
    return np.concatenate(frames), tuple(map(np.concatenate, zip(*sides, strict=True))), spec
