"""Metrics: what a command prints of them, and the files that keep them (spec-v1, section 4)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from mvc.errors import InvalidInputError, MalformedError
from mvc.types import ObjectId

__all__ = ["MOST_BYTES", "MOST_NOTES_BYTES", "Metrics", "decode_notes", "encode_notes", "parse_metrics"]

Metrics: TypeAlias = Mapping[str, bool | int | float | str]
"""Values by name; every number is finite."""

MOST_BYTES: Final = 1 << 20
"""Bytes of the metrics of a commit, and of the end of a command's output: 10,000 numbers with names."""

MOST_NOTES_BYTES: Final = 1 << 24
"""Bytes of a file that says what was measured of many commits: some 100,000 of them, and little memory."""

_TOKEN: Final = re.compile(
    r"([^\s=]+)=([+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?))[,;]?", re.IGNORECASE | re.ASCII
)
_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)


def parse_metrics(text: str) -> Metrics:
    r"""Return the metrics that the output of a command ends with.

    The last line that is a JSON object of numbers, texts and booleans; if there is none, every ``name=number`` of the
    last line that is not empty.

    Raises
    ------
    InvalidInputError
        If there are none, or a number is not finite.

    Examples
    --------
    >>> parse_metrics('loading\n{"acc": 0.5, "device": "cpu"}\ndone')
    {'acc': 0.5, 'device': 'cpu'}
    >>> parse_metrics('epoch 2: acc=0.5, n=800')
    {'acc': 0.5, 'n': 800}
    """
    lines = [line for line in text.splitlines() if line.strip()]
    objects = (_object(line) for line in reversed(lines) if line.lstrip().startswith("{"))
    found = next((item for item in objects if item), None) or _tokens(lines[-1] if lines else "")
    if not found:
        raise InvalidInputError(
            "the command printed no metric",
            hint='let the last line of its stdout be a JSON object, {"acc": 0.98}, or acc=0.98 loss=0.07',
        )
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInputError(f"the command printed {name}={value}, which is not finite")
    return found


def _object(text: str) -> dict[str, bool | int | float | str] | None:
    """Return the object of numbers, texts and booleans that `text` is; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    simple = isinstance(found, dict) and all(isinstance(value, bool | int | float | str) for value in found.values())
    return found if simple else None


def _tokens(line: str) -> dict[str, bool | int | float | str]:
    found = (match for match in map(_TOKEN.fullmatch, line.split()) if match)
    return {match[1]: int(match[2]) if _INTEGER.fullmatch(match[2]) else float(match[2]) for match in found}


def encode_notes(notes: Mapping[ObjectId, Metrics]) -> bytes:
    """Return the file that says what was measured of some commits: one line for each, sorted.

    Raises
    ------
    InvalidInputError
        If what is said of one would be longer than 1 MiB.
    """
    lines = [f'"{oid}": {_line(metrics)}' for oid, metrics in sorted(notes.items())]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _line(metrics: Metrics) -> str:
    text = json.dumps(dict(sorted(metrics.items())), allow_nan=False)  # ASCII alone
    if len(text) > MOST_BYTES:
        raise InvalidInputError(f"the metrics of a commit take {len(text):,} bytes; {MOST_BYTES:,} are allowed")
    return text


def decode_notes(data: bytes) -> dict[ObjectId, Metrics]:
    """Return what a file says of some commits.

    Raises
    ------
    MalformedError
        If it says nothing that could be said.
    """
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(_ID.fullmatch(name) and _is_metrics(found[name]) for name in found):
        raise MalformedError("a note is no JSON object of objects of finite numbers, texts and booleans, by commits")
    return {ObjectId(name): metrics for name, metrics in found.items()}


def _is_metrics(value: object) -> bool:
    """Return whether something is an object of finite numbers, texts and booleans."""
    return isinstance(value, dict) and all(
        isinstance(item, bool | int | str) or (isinstance(item, float) and math.isfinite(item))
        for item in value.values()
    )
