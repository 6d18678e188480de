"""Bodies of metadata entries: a checksum, then the zstd frame of a canonical value (spec-v1, section 7)."""

from __future__ import annotations

from typing import Final

import zstandard
from xxhash import xxh3_64_intdigest

from mvc.errors import InvalidInputError, MalformedError
from mvc.store.checks import check_xxh3
from mvc.store.layout import MAX_METADATA_BYTES, U64, Buffer

__all__ = ["unwrap_metadata", "wrap_metadata"]

_LEVEL: Final = 3
"""zstd's default: half of a manifest is ids, which no level makes smaller."""
_MAX_WINDOW: Final = 1 << 27
"""Bytes that a decoder may have to hold besides its output."""
_ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")
"""First bytes of a frame; a skippable frame, which holds nothing, begins otherwise."""


def wrap_metadata(value: bytes) -> bytes:
    """Return the body that stores `value`, the canonical bytes of a manifest, commit or tag."""
    if not 0 < len(value) <= MAX_METADATA_BYTES:
        raise InvalidInputError(
            f"a metadata object has {len(value):,} bytes; at most {MAX_METADATA_BYTES:,} can be stored"
        )
    frame = zstandard.ZstdCompressor(_LEVEL, write_content_size=True).compress(value)
    return U64.pack(xxh3_64_intdigest(frame)) + frame


def unwrap_metadata(body: Buffer, where: str = "metadata object") -> bytes:
    """Return the canonical bytes that `body` stores; `where` names it in errors.

    Raises
    ------
    IntegrityError
        If the checksum does not fit.
    MalformedError
        If it fits, but the rest is not one zstd frame within the limits. The limits are checked before any memory is
        asked for.
    """
    view = memoryview(body)
    if len(view) < U64.size:
        raise MalformedError(f"{where}: {len(view)} bytes cannot hold a checksum and a frame")
    frame = view[U64.size :]
    check_xxh3(frame, U64.unpack_from(view)[0], where)
    size = _content_size(frame, where)
    try:
        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        value = decoder.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError(f"{where}: {error}") from error
    return value


def _content_size(frame: memoryview, where: str) -> int:
    """Return the decoded bytes that the header of `frame` promises, if that is a promise to rely on."""
    if frame[: len(_ZSTD_MAGIC)] != _ZSTD_MAGIC:
        raise MalformedError(f"{where}: not a zstd frame")
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise MalformedError(f"{where}: {error}") from error
    if not 0 < header.content_size <= MAX_METADATA_BYTES:  # an absent size reads as 2**64 - 1
        raise MalformedError(
            f"{where}: the frame promises {header.content_size:,} bytes; 1 to {MAX_METADATA_BYTES:,} are allowed"
        )
    if header.window_size > _MAX_WINDOW:
        raise MalformedError(
            f"{where}: the frame needs a window of {header.window_size:,} bytes; {_MAX_WINDOW:,} are allowed"
        )
    if header.dict_id:
        raise MalformedError(f"{where}: the frame needs dictionary {header.dict_id}; none is allowed")
    return int(header.content_size)
