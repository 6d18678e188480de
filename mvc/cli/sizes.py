"""Numbers of bytes on the command line."""

from __future__ import annotations

import math
import re
from typing import Final

from mvc.cli.parsed import Parsed

__all__ = ["BYTES", "byte_count"]

_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE)
_POWERS: Final = {"k": 1, "m": 2, "g": 3, "t": 4}


def byte_count(text: str) -> int | None:
    """Return the bytes that a text such as ``15MB`` or ``2.5MiB`` stands for; None if it stands for none.

    Examples
    --------
    >>> byte_count("15MB"), byte_count("2.5MiB"), byte_count("812"), byte_count("much")
    (15000000, 2621440, 812, None)
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    power = _POWERS[match[2].lower()] if match[2] else 0
    bytes_ = float(match[1]) * (1024 if match[3] else 1000) ** power
    return int(bytes_) if math.isfinite(bytes_) else None


BYTES: Final = Parsed("bytes", byte_count, "a size: write it like 15MB, 2.5MiB or 800000")
