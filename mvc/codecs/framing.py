"""How a tensor is cut into frames (spec-v1, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mvc.codecs.abc import FrameSpec
from mvc.types import TensorSpec

__all__ = ["MAX_FRAME_WORDS", "TARGET_FRAME_WORDS", "frame_count", "frame_spec", "frame_specs", "frame_words"]

TARGET_FRAME_WORDS: Final = 1 << 20
"""Words; keeps a few frames of each thread inside the last-level cache, and costs 12 bytes in 2 MiB of bf16."""

MAX_FRAME_WORDS: Final = 1 << 24
"""Words that a reader accepts: bounds its memory."""


def frame_words(spec: TensorSpec) -> int:
    """Return the words of each frame but the last: whole rows, or 2**20 words of rows longer than that.

    Examples
    --------
    >>> from mvc.types import dtype_of
    >>> frame_words(TensorSpec(dtype_of("BF16"), (30522, 384)))
    1048320
    """
    rows = max(1, TARGET_FRAME_WORDS // spec.row_words)
    return min(rows * spec.row_words, TARGET_FRAME_WORDS)


def frame_count(spec: TensorSpec, words: int) -> int:
    """Return the number of frames of `words` words; 0 for an empty tensor."""
    return -(-spec.words // words)


def frame_spec(spec: TensorSpec, words: int, index: int) -> FrameSpec:
    """Return what is known of frame `index` of a tensor cut into frames of `words` words.

    Its first byte is ``index * words * spec.dtype.word_bytes`` of the tensor.
    """
    start = index * words
    return FrameSpec(spec.dtype, min(words, spec.words - start), spec.row_words, start)


def frame_specs(spec: TensorSpec, words: int) -> Iterator[tuple[slice, FrameSpec]]:
    """Yield the range of bytes and the spec of every frame, in order."""
    start = 0
    for index in range(frame_count(spec, words)):
        frame = frame_spec(spec, words, index)
        yield slice(start, start + frame.nbytes), frame
        start += frame.nbytes
