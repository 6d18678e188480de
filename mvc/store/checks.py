"""Refusals that say where and why: checksums, reserved bytes and versions of stored structures."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from mvc.errors import FormatError, IntegrityError, MalformedError
from mvc.store.layout import FORMAT_VERSION, Buffer

__all__ = ["check_prelude", "check_xxh3"]


def check_xxh3(data: Buffer, stored: int, where: str) -> None:
    """Raise IntegrityError, with both values, unless `stored` is the xxh3 of `data`."""
    computed = xxh3_64_intdigest(data)
    if computed != stored:
        raise IntegrityError(
            f"{where}: the stored checksum is {stored:016x}, but the bytes give {computed:016x}", hint="run mvc fsck"
        )


def check_prelude(found: bytes, magic: bytes, version: int, reserved: bytes, where: str) -> None:
    """Raise unless a file begins with `magic`, a version that this release reads, and zeros."""
    if found != magic:
        raise MalformedError(f"{where}: begins with {found!r}, not with {magic!r}")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where}: version {version} is unknown; this release knows {FORMAT_VERSION}", hint="upgrade mvc"
        )
    if any(reserved):
        raise MalformedError(f"{where}: the reserved bytes {reserved.hex()} are not zero")
