"""Numbers, times and names as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import click

__all__ = ["Cell", "columns", "counted", "iso_time", "local_time", "percent", "printable", "short", "size"]

SHORT_DIGITS: Final = 12
"""Digits of an abbreviated id: 48 bits, so that one in a million repositories of 100,000 commits has two alike."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = ("kB", "MB", "GB", "TB", "PB", "EB")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that would move the cursor, change colours or break the encoding; tab and newline are harmless."""


def short(oid: str) -> str:
    """Return the beginning of an id."""
    return oid[:SHORT_DIGITS]


def size(count: int) -> str:
    """Return a number of bytes in decimal units.

    Examples
    --------
    >>> size(812), size(45_400_000), size(999_960)
    ('812 B', '45.4 MB', '1.0 MB')
    """
    if count < 1000:
        return f"{count} B"
    scaled = ((count / 1000**power, unit) for power, unit in enumerate(_UNITS, 1))
    value, unit = next((item for item in scaled if item[0] < 999.95), (count / 1000 ** len(_UNITS), _UNITS[-1]))
    return f"{value:.1f} {unit}"


def percent(part: int, whole: int) -> str:
    """Return a share.

    Examples
    --------
    >>> percent(187, 1000), percent(1, 0)
    ('18.7 %', '-')
    """
    return f"{100 * part / whole:.1f} %" if whole else "-"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "tensor"), counted(2000, "file")
    ('1 tensor', '2,000 files')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def iso_time(microseconds: int) -> str | None:
    """Return a time in UTC as ISO 8601, or None if it is not in the years 1 to 9999.

    Examples
    --------
    >>> iso_time(1_700_000_000_000_001)
    '2023-11-14T22:13:20.000001Z'
    """
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")[:26] + "Z"
    except OverflowError:
        return None


def local_time(microseconds: int) -> str:
    """Return a time in the zone of this machine, to the second."""
    try:
        return f"{(_EPOCH + timedelta(microseconds=microseconds)).astimezone():%Y-%m-%d %H:%M:%S %z}"
    except (OverflowError, ValueError, OSError):
        return f"{microseconds} µs after 1970"


def printable(text: str) -> str:
    r"""Return `text` with control characters made visible: a message from elsewhere must not steer the terminal.

    Examples
    --------
    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


Cell: TypeAlias = str | tuple[str, str]
"""Text of a table, alone or with its colour."""


def columns(rows: Iterable[Sequence[Cell]], align: str) -> list[str]:
    """Return rows as lines of aligned columns.

    Parameters
    ----------
    rows : iterable of sequence of Cell
        As many cells a row as columns.
    align : str
        ``<`` or ``>`` for each column.

    Examples
    --------
    >>> columns([("a", "10"), ("bcd", "5")], "<>")
    ['a    10', 'bcd   5']
    """
    cells = [[(printable(c), None) if isinstance(c, str) else (printable(c[0]), c[1]) for c in row] for row in rows]
    widths = [max((len(row[place][0]) for row in cells), default=0) for place in range(len(align))]
    return ["  ".join(map(_padded, row, widths, align)).rstrip() for row in cells]


def _padded(cell: tuple[str, str | None], width: int, side: str) -> str:
    text, colour = cell
    fill = " " * (width - len(text))
    shown = click.style(text, fg=colour) if colour else text
    return fill + shown if side == ">" else shown + fill


def facts(found: Mapping[str, object]) -> str:
    """Return names and values as text.

    Examples
    --------
    >>> facts({"loss": 0.1234567, "best": True})
    'best=true loss=0.123457'
    """
    return printable(" ".join(f"{key}={_scalar(value)}" for key, value in sorted(found.items())))


def _scalar(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
