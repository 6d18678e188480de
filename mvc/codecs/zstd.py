"""zstd as the codecs use it: three tuned compressors and one strict decompressor, one set for each thread.

Measurements behind the settings: docs/explanation/codecs.md, "Tuning".
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import Final

import zstandard
from zstandard import ZstdCompressionParameters, ZstdCompressor, ZstdDecompressor, ZstdError

from mvc.codecs.abc import Bytes
from mvc.errors import MalformedError

__all__ = ["Effort", "compress", "decompress"]

_MAX_WINDOW: Final = 1 << 27
"""Bytes; spec-v1, section 6.2, so that no stored byte can ask for more memory."""

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""A zstd frame, as opposed to a skippable one."""


class Effort(Enum):
    """Where the redundancy of the bytes lies. The value is zstd's window log, which is also the length of a block."""

    LITERALS = 17
    """Skewed bytes without structure, of one distribution: long blocks, one Huffman table for 128 KiB."""

    DRIFTING = 15
    """Skewed bytes whose distribution changes along the way, as after a sort: a table for every 32 KiB."""

    REPEATS = 21
    """Runs and repeats: search for matches (level 3)."""


def _entropy_coder(window_log: int) -> ZstdCompressor:
    """Return a compressor that does little but Huffman coding: a match of 3 to 6 bytes costs more than its literals."""
    parameters = ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        min_match=7,  # the longest that this strategy knows
        hash_log=6,  # the smallest table: few matches are found, and searching them costs little
        chain_log=6,
        search_log=1,
        window_log=window_log,
        write_content_size=True,
        write_checksum=False,  # the frame table has a checksum of its own
    )
    return ZstdCompressor(compression_params=parameters)


class _Contexts(threading.local):
    """zstd's working memory; contexts are costly to make and not safe to share."""

    def __init__(self) -> None:
        self.compressors = {
            Effort.LITERALS: _entropy_coder(Effort.LITERALS.value),
            Effort.DRIFTING: _entropy_coder(Effort.DRIFTING.value),
            Effort.REPEATS: ZstdCompressor(level=3, write_checksum=False, write_content_size=True),
        }
        self.decompressor = ZstdDecompressor()


_contexts: Final = _Contexts()


def compress(data: Bytes, effort: Effort) -> bytes:
    """Return `data` as one zstd frame that states its content size."""
    return _contexts.compressors[effort].compress(data.data)


def decompress(stored: memoryview, size: int) -> bytes:
    """Return the `size` bytes of the zstd frame `stored`.

    Raises
    ------
    MalformedError
        If `stored` is not exactly one frame of `size` bytes, or asks for a dictionary or too large a window. All of it
        is checked before memory is taken.
    """
    try:
        frame = zstandard.get_frame_parameters(stored)
    except ZstdError as error:
        raise MalformedError(f"plane is not a zstd frame: {error}") from None
    if bytes(stored[:4]) != _MAGIC or frame.dict_id or frame.window_size > _MAX_WINDOW or frame.content_size != size:
        raise MalformedError(
            f"zstd frame states {frame.content_size} bytes, window {frame.window_size} and dictionary {frame.dict_id}; "
            f"expected {size} bytes, a window of at most {_MAX_WINDOW} and no dictionary"
        )
    try:
        data = _contexts.decompressor.decompress(stored, allow_extra_data=False)
    except ZstdError as error:
        raise MalformedError(f"plane is a damaged zstd frame: {error}") from None
    return data
