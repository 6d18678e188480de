"""Lengths of time on the command line."""

from __future__ import annotations

import re
from typing import Final

from mvc.cli.parsed import Parsed

__all__ = ["DURATION", "seconds"]

_PATTERN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float | None:
    """Return the seconds that a text such as ``90m`` or ``2w`` stands for; None if it stands for none.

    Examples
    --------
    >>> seconds("90m"), seconds("0"), seconds("soon")
    (5400.0, 0.0, None)
    """
    if text == "0":
        return 0.0
    match = _PATTERN.fullmatch(text)
    return float(match[1]) * _SECONDS[match[2]] if match else None


DURATION: Final = Parsed("duration", seconds, "a length of time: write it like 90m, 12h, 3d, 2w or 0")
